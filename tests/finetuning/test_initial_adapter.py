"""A run of adapters starts from an adapter: its first numbers are the adapter's."""

from pathlib import Path

import numpy as np
import pytest

import hermes
from hermes.errors import CheckpointError, HermesError
from hermes.finetuning.initial_adapter import make_initial_adapter
from hermes.interop.open_model import open_model
from hermes.numerics.lora import describe_adapter, init_adapters
from hermes.numerics.merging import DOWN, MAGNITUDE, UP, Adapter, merge_tensors
from hermes.numerics.params import init_weights, list_parameters
from tests.finetuning.support import TEXT, small_checkpoint, small_spec
from tests.finetuning.test_adapters import tune
from tests.finetuning.test_new_tokens import CHAT, ids_of, make_base, set_rows

BACKENDS = ["torch", "mlx"]
NOWHERE = Path("adapter")


def train_on_text(tmp_path, checkpoint, output, backend, **settings):
    """The losses of a run's steps are of the weights before each."""
    (tmp_path / "text.txt").write_text(TEXT * 20)
    chosen = {"max_steps": 3, "batch_size": 2, "seq_len": 16, "lr": 2e-2, "log_every": 1} | settings
    return hermes.finetune(
        checkpoint, data=tmp_path / "text.txt", output=tmp_path / output, backend=backend, **chosen
    )


def read_weights(path):
    source = open_model(path)
    return {name: np.array(source.params[name]) for name in source.params}


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"lora_rslora": True}], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_step_has_the_adapters_numbers(tmp_path, backend, kind):
    base = small_checkpoint(tmp_path / "base")
    first = train_on_text(tmp_path, base, "first", backend, lora_rank=4, **kind)
    settings = {"max_steps": 1, "lr": 1e-12}
    whole = train_on_text(tmp_path, first.checkpoint, "whole", backend, **settings)
    fresh = train_on_text(tmp_path, base, "fresh", backend, lora_rank=4, **settings)
    on = train_on_text(tmp_path, base, "on", backend, adapter=first.checkpoint, **settings)
    assert on.loss == pytest.approx(whole.loss, abs=1e-5)
    assert abs(fresh.loss - whole.loss) > 1e-2
    ours, theirs = read_weights(on.checkpoint), read_weights(first.checkpoint)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, err_msg=name)
    assert any("continues from the adapter" in note for note in on.notes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_tokens_go_on_too_and_the_run_resumes(tmp_path, backend):
    make_base(tmp_path / "base", change=set_rows(ids_of(*CHAT), 0.0))
    first = tune(tmp_path, "first", backend=backend)
    with pytest.raises(HermesError, match="lora_rank is what the adapter of adapter was made"):
        tune(tmp_path, "on", backend=backend, adapter=tmp_path / "first")
    settings = {"batch_size": 4, "seq_len": 48, "backend": backend, "adapter": tmp_path / "first"}
    on = hermes.sft(tmp_path / "base", data=tmp_path / "chat.jsonl", output=tmp_path / "on",
                    max_steps=1, lr=1e-12, **settings)  # fmt: skip
    ours, theirs = read_weights(on.checkpoint), read_weights(first)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6, err_msg=name)
    del settings["adapter"]
    after = hermes.sft(data=tmp_path / "chat.jsonl", output=tmp_path / "on", max_steps=2,
                       resume=True, **settings)  # fmt: skip
    assert after.steps == 2


def make_adapter(spec, ranks, scales, *, dora=False):
    rng = np.random.default_rng(0)
    tensors, factors = {}, {}
    for i, (path, rank) in enumerate(ranks.items()):
        rows, columns = list_parameters(spec)[f"{path}.weight"].shape
        tensors[f"{path}.{DOWN}"] = rng.normal(size=(rank, columns))
        tensors[f"{path}.{UP}"] = rng.normal(size=(rows, rank))
        if dora:
            tensors[f"{path}.{MAGNITUDE}"] = rng.uniform(1, 2, rows)
        factors[path] = scales[i % len(scales)]
    return Adapter(tensors, factors)


PATHS = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qv"]


@pytest.mark.parametrize("dora", [False, True])
def test_ranks_and_factors_that_differ_become_one_without_a_change(dora):
    spec = small_spec()
    ranks = dict(zip(PATHS, (2, 5, 3, 5), strict=True))
    adapter = make_adapter(spec, ranks, (0.5, 2.0, 3.0), dora=dora)
    start = make_initial_adapter(NOWHERE, adapter, spec)
    assert (start.lora.rank, start.lora.targets, start.lora.dora) == (5, ("q_proj", "v_proj"), dora)
    base = init_weights(spec, 0)
    first = start.change_first_values(init_adapters(spec, start.lora, 0, base), ())
    assert all(np.any(first[f"{path}.{DOWN}"], axis=1).all() for path in PATHS)  # none is dead
    ours = merge_tensors(spec, base, describe_adapter(spec, start.lora, first))
    theirs = merge_tensors(spec, base, adapter)
    for path in PATHS:
        name = f"{path}.weight"
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


REFUSED = {
    "a layer without": (
        {"ranks": {path: 2 for path in PATHS[:3]}},
        "no update of 'model.layers.1.self_attn.v_proj', and a run trains the same matrices in "
        "every layer",
    ),
    "embeddings": (
        {"ranks": {**dict.fromkeys(PATHS, 2), "model.embed_tokens": 2}},
        "has an update of 'model.embed_tokens', and a run adapts matrices of layers",
    ),
    "whole": (
        {"more": {"model.norm.weight": np.ones(32)}},
        "replaces 'model.norm.weight' whole, and a run of adapters trains updates of low rank",
    ),
    "apart": (
        {"ties_head": False},
        "changes rows of the embeddings and others of the head",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_a_run_cannot_train_is_refused_with_the_way_out(name):
    changes, message = REFUSED[name]
    spec = small_spec()
    made = make_adapter(spec, changes.get("ranks", dict.fromkeys(PATHS, 2)), (1.0,))
    tensors = dict(made.tensors) | changes.get("more", {})
    adapter = Adapter(tensors, made.scales, ties_head=changes.get("ties_head", True))
    with pytest.raises(CheckpointError, match=r"merge it first: hermes merge --adapter") as refused:
        make_initial_adapter(NOWHERE, adapter, spec)
    assert message in str(refused.value)
