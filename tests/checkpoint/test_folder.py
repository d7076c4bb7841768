"""What is saved is what is opened: files, names, weights, shards, and the words of each refusal."""

import dataclasses
import json
import os
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as public

from hermes.checkpoint import (
    Companions,
    Disk,
    Progress,
    find_newest,
    locate,
    open_checkpoint,
    require_model,
    save,
)
from hermes.errors import CheckpointError
from hermes.interface import TrainState
from hermes.numerics.params import list_parameters, list_unfrozen
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec
from tests.checkpoint import make_fixture
from tests.checkpoint.support import (
    COMPANIONS,
    SPEC,
    TIED,
    TOKENIZER,
    progress_at,
    require_equal,
    save_at,
    state_at,
)

V1 = Path(__file__).parent / "fixtures" / "v1"


def test_a_checkpoint_holds_these_files_and_opens_equal(tmp_path):
    path = save_at(tmp_path / "some" / "run", 200)
    assert path.name == "step-00000200"
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "model.mal",
        "model.safetensors",
        "optimizer.safetensors",
        "progress.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "manifest.json",
    }
    checkpoint = open_checkpoint(path)
    require_equal(checkpoint, 200)
    assert checkpoint.spec == SPEC
    assert checkpoint.progress == progress_at(200)
    assert checkpoint.companions == COMPANIONS
    assert checkpoint.tokenizer_json == TOKENIZER
    assert checkpoint.resumable
    assert json.loads((path / "config.json").read_text())["architectures"] == ["HermesForCausalLM"]


def test_the_public_reader_opens_weights_and_moments_by_name(tmp_path):
    path, state = save_at(tmp_path, 3), state_at(3)
    weights = public.load_file(path / "model.safetensors")
    assert {n: x.tobytes() for n, x in weights.items()} == {
        n: x.tobytes() for n, x in state.params.items()
    }
    moments = public.load_file(path / "optimizer.safetensors")
    for prefix, source in (("exp_avg", state.exp_avg), ("exp_avg_sq", state.exp_avg_sq)):
        for name, tensor in source.items():
            assert (moments.pop(f"{prefix}.{name}") == tensor).all()
    assert not moments


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masters_keep_their_precision(tmp_path, dtype):
    state = state_at(1, dtype=dtype)
    path = save(tmp_path, state, spec=SPEC, progress=progress_at(1))
    for name, tensor in open_checkpoint(path).params.items():
        assert tensor.dtype == dtype
        assert (tensor == state.params[name]).all()


def test_a_checkpoint_of_frozen_layers_has_moments_of_the_others(tmp_path):
    names = list_unfrozen(SPEC, 1)
    assert 0 < len(names) < len(list_parameters(SPEC))
    full = state_at(1)
    moments = [{n: source[n] for n in names} for source in (full.exp_avg, full.exp_avg_sq)]
    progress = Progress(run="a", step=1, recipe=Recipe(freeze_layers=1))
    path = save(tmp_path, TrainState(full.params, *moments, 1), spec=SPEC, progress=progress)
    state = open_checkpoint(path).state
    assert set(state.exp_avg) == set(state.exp_avg_sq) == set(names)


def test_what_does_not_belong_together_is_not_saved(tmp_path):
    state = state_at(1)
    with pytest.raises(CheckpointError, match="step 2 cannot be saved with the state of step 1"):
        save(tmp_path, state, spec=SPEC, progress=progress_at(2))
    with pytest.raises(CheckpointError, match=r"its spec differ in tensor 'lm_head.weight'"):
        save(tmp_path, state, spec=TIED, progress=progress_at(1))
    state.params["model.norm.weight"] = np.ones(5, np.float32)
    with pytest.raises(CheckpointError, match=r"has shape \(5,\), expected \(4,\)"):
        save(tmp_path, state, spec=SPEC, progress=progress_at(1))
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_made_one_at_a_time(tmp_path):
    """While one is written, at most the one before it is still alive."""
    made = []

    class Lazy(dict):
        def __getitem__(self, name):
            tensor = np.array(super().__getitem__(name))
            made.append(weakref.ref(tensor))
            return tensor

    def before(operation):
        alive.append(sum(reference() is not None for reference in made))

    alive = []
    state = state_at(1)
    lazy = TrainState(Lazy(state.params), Lazy(state.exp_avg), Lazy(state.exp_avg_sq), 1)
    path = save(tmp_path, lazy, spec=SPEC, progress=progress_at(1), disk=Disk(before))
    require_equal(open_checkpoint(path), 1)
    assert len(made) > 3 * len(list_parameters(SPEC))
    assert max(alive) <= 2


def test_locate_takes_a_checkpoint_a_run_or_bare_weights(tmp_path):
    run = tmp_path / "run"
    first, second = save_at(run, 1), save_at(run, 2)
    assert locate(first)[0].path == first
    assert locate(run)[0].path == second
    assert locate(run, spec=SPEC)[0].path == second
    bare, skipped = locate(second / "model.safetensors", spec=SPEC)
    assert skipped == ()
    assert not bare.resumable
    assert bare.params["lm_head.weight"].tobytes() == state_at(2).params["lm_head.weight"].tobytes()
    with pytest.raises(CheckpointError, match=r"has no optimizer.safetensors, so no run can be"):
        bare.state  # noqa: B018
    with pytest.raises(CheckpointError, match=r"has no progress.json, so no run can be resumed"):
        bare.progress  # noqa: B018


def test_what_locate_cannot_take_is_said(tmp_path):
    def refusal(path, **given):
        with pytest.raises(CheckpointError) as caught:
            locate(path, **given)
        return str(caught.value)

    path = save_at(tmp_path / "run", 1)
    weights = path / "model.safetensors"
    assert refusal(weights) == f"{weights} holds weights only; name their model with --config"
    nowhere = tmp_path / "nowhere"
    assert refusal(nowhere) == f"there is no checkpoint {nowhere}"
    assert refusal(tmp_path).startswith(
        f"{tmp_path} is neither a checkpoint nor a run: it has no mani"
    )
    (path / "model.mal").write_text("")
    assert refusal(tmp_path / "run").startswith(f"run {tmp_path / 'run'} has no whole checkpoint; ")


def test_a_checkpoint_of_another_model_is_refused_by_its_first_difference():
    def refusal(**changes):
        with pytest.raises(CheckpointError) as caught:
            require_model(Path("c"), SPEC, dataclasses.replace(SPEC, **changes), "do so")
        return str(caught.value).removesuffix("; do so")

    start = "checkpoint c was written for another model: "
    assert refusal(num_layers=24) == start + "num_layers 1 there, 24 here"
    assert refusal(vocab_size=13) == start + "vocab_size 12 there, 13 here"
    block = dataclasses.replace(SPEC.blocks[0], attention=AttentionSpec(num_heads=1))
    found = refusal(blocks=(block,))
    assert found == start + "layers.0.attention.num_heads 2 there, 1 here"
    assert "layers.0.norm.eps 1e-05 there, 1e-06 here" in refusal(
        blocks=(dataclasses.replace(SPEC.blocks[0], norm=type(SPEC.blocks[0].norm)(eps=1e-6)),)
    )


def test_another_spelling_of_the_model_is_the_same_model():
    attention = AttentionSpec(num_heads=2, num_kv_heads=2, head_dim=2, name="other")
    block = BlockSpec(attention, SPEC.blocks[0].ffn, name="x")
    require_model(Path("c"), SPEC, dataclasses.replace(SPEC, blocks=(block,), name="y"), "")


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 12}}, "added_tokens": []},
        {"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"id": 12}]},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]] * 13}},
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused_with_both_sizes(tmp_path, tokenizer):
    companions = Companions(tokenizer_json=json.dumps(tokenizer))
    path = save(tmp_path, state_at(1), spec=SPEC, progress=progress_at(1), companions=companions)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).tokenizer_json  # noqa: B018
    assert str(caught.value) == (
        f"{path / 'tokenizer.json'} has 13 tokens, but the model's vocab_size is 12; "
        "use the tokenizer that it was trained with"
    )


@pytest.mark.parametrize("text", ["{}", "[]", '{"model": 5}', '{"model": {"vocab": {"a": "b"}}}'])
def test_a_tokenizer_that_is_none_is_refused(tmp_path, text):
    companions = Companions(tokenizer_json=text)
    path = save(tmp_path, state_at(1), spec=SPEC, progress=progress_at(1), companions=companions)
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not a tokenizer.json"):
        open_checkpoint(path).tokenizer_json  # noqa: B018


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_modes_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = save_at(tmp_path / "run", 1)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o777 & ~mask
    for file in path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_run_behind_a_link_stays_behind_it(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    save_at(tmp_path / "run", 1)
    assert (tmp_path / "run").is_symlink()
    require_equal(find_newest(tmp_path / "disk").checkpoint, 1)


def test_lazy_tensors_outlive_the_folder(tmp_path):
    """Deleted or replaced under its reader, a checkpoint still gives what was saved."""
    path = save_at(tmp_path, 1)
    checkpoint = open_checkpoint(path)
    for file in path.iterdir():
        file.unlink()
    require_equal(checkpoint, 1)


def test_the_first_format_is_read_for_ever():
    checkpoint = find_newest(V1).checkpoint
    spec, state = make_fixture.state()
    assert checkpoint.manifest.version == 1
    assert checkpoint.spec == spec
    assert checkpoint.progress == make_fixture.progress()
    assert checkpoint.companions == make_fixture.companions()
    for kind in ("params", "exp_avg", "exp_avg_sq"):
        for name, tensor in getattr(state, kind).items():
            assert (getattr(checkpoint.state, kind)[name] == tensor).all()


def test_the_first_format_is_what_is_written_until_there_is_a_second(tmp_path):
    """Where this fails and nothing was meant to change, files of today are not those of before."""
    spec, state = make_fixture.state()
    path = save(
        tmp_path,
        state,
        spec=spec,
        progress=make_fixture.progress(),
        companions=make_fixture.companions(),
    )
    for file in sorted(path.glob("*.safetensors")):
        assert file.read_bytes() == (V1 / path.name / file.name).read_bytes()
    text = (path / "manifest.json").read_text()
    assert re.search(r'"version": 1,\n  "sha256": "[0-9a-f]{64}"\n}\n\Z', text)
