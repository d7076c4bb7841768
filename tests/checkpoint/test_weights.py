"""Which tensor is in which file, under which name, and the words for those that do not fit."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as public

from hermes.checkpoint import open_checkpoint, save
from hermes.checkpoint.weights import match_to_spec, read_weights
from hermes.errors import CheckpointError
from hermes.numerics.params import list_parameters
from tests.checkpoint.support import (
    SPEC,
    TIED,
    numbers,
    progress_at,
    require_equal,
    save_at,
    state_at,
)


def one_file(tmp_path, tensors, spec=SPEC):
    public.save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    return match_to_spec(read_weights(tmp_path / "m.safetensors"), spec, "m.safetensors")


def test_large_weights_come_in_shards_that_other_readers_know(tmp_path):
    path = save(tmp_path, state_at(1), spec=SPEC, progress=progress_at(1), shard_limit=400)
    shards = sorted(file.name for file in path.glob("model-*.safetensors"))
    count = len(shards)
    assert count > 2
    assert shards[0] == f"model-00001-of-{count:05d}.safetensors"
    assert not (path / "model.safetensors").exists()
    index = json.loads((path / "model.safetensors.index.json").read_text())
    total = sum(x.nbytes for x in state_at(1).params.values())
    assert index["metadata"] == {"total_size": total}
    assert set(index["weight_map"]) == set(list_parameters(SPEC))
    for name, file in index["weight_map"].items():
        assert (public.load_file(path / file)[name] == state_at(1).params[name]).all()
    for shard in shards:
        held = [n for n, file in index["weight_map"].items() if file == shard]
        size = sum(state_at(1).params[n].nbytes for n in held)
        assert size <= 400 or len(held) == 1
    require_equal(open_checkpoint(path), 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(x="../x.safetensors"), "which is not a file beside it"),
        (lambda m: m.update(x="/etc/passwd"), "which is not a file beside it"),
        (lambda m: m.update(x=5), "which is not a file beside it"),
        (lambda m: m.update(x="nowhere.safetensors"), "nowhere.safetensors: no such file"),
        (lambda m: m.update(x="model-00001-of-00005.safetensors"), "which lacks it"),
        (lambda m: m.pop("model.norm.weight"), "holds 'model.norm.weight', which"),
        (lambda m: m.clear(), "has no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, change, reason):
    path = save(tmp_path, state_at(1), spec=SPEC, progress=progress_at(1), shard_limit=250)
    assert (path / "model-00001-of-00005.safetensors").exists()
    file = path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    assert reason in str(caught.value)


def test_one_file_and_shards_side_by_side_are_refused(tmp_path):
    path = save(tmp_path, state_at(1), spec=SPEC, progress=progress_at(1), shard_limit=400)
    public.save_file(state_at(1).params, path / "model.safetensors")
    with pytest.raises(CheckpointError, match="remove the one that is stale"):
        read_weights(path)


def test_a_tied_head_is_not_saved_and_is_read_where_it_is_equal(tmp_path):
    path = save(tmp_path, state_at(1, TIED), spec=TIED, progress=progress_at(1))
    assert "lm_head.weight" not in public.load_file(path / "model.safetensors")
    tensors = numbers(TIED, 0)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    read = one_file(tmp_path, tensors, TIED)
    assert "lm_head.weight" not in read
    tensors["lm_head.weight"][3, 2] += 1
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' that differs from 'model.embed"):
        one_file(tmp_path, tensors, TIED)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    ],
)
def test_names_that_wrappers_of_modules_prefixed_are_read(tmp_path, wrap):
    tensors = numbers(SPEC, 0)
    read = one_file(tmp_path, {wrap(name): tensor for name, tensor in tensors.items()})
    assert {n: x.tobytes() for n, x in read.items()} == {n: x.tobytes() for n, x in tensors.items()}


def test_a_prefix_that_makes_two_names_one_is_refused(tmp_path):
    tensors = numbers(SPEC, 0)
    tensors["module.model.norm.weight"] = tensors["model.norm.weight"] + 1
    with pytest.raises(CheckpointError, match=r"has two tensors for 'model.norm.weight'"):
        one_file(tmp_path, tensors)


def test_weights_that_do_not_fit_are_named(tmp_path):
    deeper = dataclasses.replace(SPEC, num_layers=2)
    with pytest.raises(CheckpointError) as caught:
        one_file(tmp_path, numbers(SPEC, 0), deeper)
    assert str(caught.value) == (
        "checkpoint m.safetensors has no tensor 'model.layers.1.self_attn.q_proj.weight'; "
        "its spec has 2 layers, this one 1"
    )
    tensors = numbers(SPEC, 0)
    tensors["lm_head.weight"] = np.ones((10, 4), np.float32)
    with pytest.raises(CheckpointError) as caught:
        one_file(tmp_path, tensors)
    assert str(caught.value) == (
        "checkpoint m.safetensors: tensor 'lm_head.weight' has shape (10, 4), expected (12, 4)"
    )
    tensors["lm_head.weight"] = np.ones((12, 4), np.int32)
    with pytest.raises(CheckpointError) as caught:
        one_file(tmp_path, tensors)
    assert str(caught.value) == (
        "checkpoint m.safetensors: tensor 'lm_head.weight' is I32, "
        "expected one of F64, F32, F16, BF16"
    )
    del tensors["lm_head.weight"]
    with pytest.raises(CheckpointError) as caught:
        one_file(tmp_path, tensors)
    assert str(caught.value) == (
        "checkpoint m.safetensors has no tensor 'lm_head.weight'; its spec 'tiny' needs it"
    )
    with pytest.raises(CheckpointError) as caught:
        one_file(tmp_path, numbers(SPEC, 0) | {"model.rotary": np.ones(1, np.float32)})
    assert str(caught.value) == (
        "checkpoint m.safetensors has a tensor 'model.rotary', which its spec does not have"
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_any_float_are_read_as_they_are(tmp_path, dtype):
    read = one_file(tmp_path, numbers(SPEC, 0, dtype))
    assert read["model.norm.weight"].dtype == dtype


def test_moments_that_do_not_fit_are_named(tmp_path):
    path = save_at(tmp_path, 1)
    file = path / "optimizer.safetensors"
    whole = public.load_file(file)
    from hermes.checkpoint.weights import read_moments
    from hermes.numerics.update_rules import list_state_shapes
    from hermes.recipe import Recipe
    from hermes.storage.safetensors import TensorFile

    def refusal(tensors):
        public.save_file(tensors, file)
        with pytest.raises(CheckpointError) as caught:
            read_moments(TensorFile(file), list_state_shapes(SPEC, Recipe()))
        return str(caught.value)

    name = "exp_avg_sq.model.norm.weight"
    assert (
        refusal({n: x for n, x in whole.items() if n != name}) == f"{file} has no tensor '{name}'"
    )
    assert refusal(whole | {name: np.ones(5, np.float32)}) == (
        f"{file}: tensor '{name}' has shape (5,), expected (4,)"
    )
    assert "has a tensor 'exp_avg.x' that no weight has" in refusal(
        whole | {"exp_avg.x": np.ones(1, np.float32)}
    )
