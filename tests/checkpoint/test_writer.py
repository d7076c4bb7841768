"""What is saved is what is opened: files, names, weights, shards, and the words of each refusal."""

import json
import os
import weakref

import numpy as np
import pytest
from safetensors import numpy as public

from hermes.checkpoint import (
    Disk,
    Progress,
    find_newest,
    open_checkpoint,
    save,
)
from hermes.errors import CheckpointError
from hermes.interface import TrainState
from hermes.numerics.params import list_parameters, list_unfrozen
from hermes.recipe import Recipe
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
