"""Checkpointing changes no number, whatever a block has, and a compiled step stays one graph.

Whether dropout, masks and positions are the same in what is computed twice shows in the gradients.
"""

import dataclasses
import warnings

import numpy as np
import pytest

from hermes.interface import Options, TrainState
from hermes.numerics.lora import init_adapters
from hermes.recipe import Lora, Recipe
from hermes.spec import Alibi, AttentionSpec
from hermes_torch.fused_attention import NO_KERNELS, Kernels
from tests.backends.mlx_graphs import count_compiled
from tests.backends.support import EXACT, make_batch, make_learner, make_spec, make_weights
from tests.backends.torch.attention_support import (
    Graphs,
    make_packed_batch,
    take_cuda_kernels,
    without_documents,
)

T = 40
PLAIN = AttentionSpec(4, 2)
LORA = Lora(rank=2, dropout=0.1)
# What attention has besides, what blocks drop, whether rows are packed, and adapters.
FIELDS = {
    "plain": ({}, 0.0, False, None),
    "soft cap": ({"softcap": 2.0}, 0.0, False, None),
    "soft cap, documents": ({"softcap": 2.0}, 0.0, True, None),
    "soft cap, window": ({"softcap": 2.0, "window_size": 9}, 0.0, False, LORA),
    "sinks": ({"sinks": True}, 0.0, False, None),
    "sinks, documents": ({"sinks": True}, 0.0, True, None),
    "sinks, window, dropout": ({"sinks": True, "window_size": 9, "dropout": 0.1}, 0.1, True, None),
    "dropout": ({"dropout": 0.1}, 0.1, False, None),
    "dropout, documents": ({"dropout": 0.1}, 0.1, True, None),
    "documents": ({}, 0.0, True, None),
    "documents, window": ({"window_size": 9}, 0.0, True, None),
    "window": ({"window_size": 9}, 0.0, False, None),
    "ALiBi": ({"position_encoding": Alibi()}, 0.0, False, None),
    "ALiBi, documents": ({"position_encoding": Alibi()}, 0.0, True, LORA),
    "ALiBi, soft cap, dropout": (
        {"position_encoding": Alibi(), "softcap": 2.0, "dropout": 0.1},
        0.0,
        False,
        None,
    ),
    "LoRA": ({}, 0.0, False, LORA),
    "LoRA, documents, dropout": ({"dropout": 0.1}, 0.1, True, LORA),
    "LoRA, sinks": ({"sinks": True}, 0.0, False, LORA),
}
KINDS = ("grad_checkpoint", "selective_checkpoint")
# Of FlexAttention's reference on a CPU, and of attention that is written out.
KERNELS = {"flex": Kernels(flex=True), "written out": NO_KERNELS}


def make_case(backend, fields, options):
    """A learner of two layers that have these fields, and a batch."""
    change, dropout, packed, lora = FIELDS[fields]
    model = make_spec(attention=dataclasses.replace(PLAIN, **change), dropout=dropout)
    model = dataclasses.replace(model, max_seq_len=T)
    weights = make_weights(model)
    adapters = init_adapters(model, lora, 0, weights) if lora else {}
    state = TrainState({**weights, **adapters}, {}, {}, 0)
    batch = make_packed_batch(T=T) if packed else without_documents(make_batch(T=T))
    return make_learner(backend, model, Recipe(lora=lora), options, state), batch


def compute_gradients(backend, fields, options):
    learner, batch = make_case(backend, fields, options)
    return learner.grads(batch)


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize(
    ("backend", "kind"), [*(("torch", kind) for kind in KINDS), ("mlx", KINDS[0])]
)
def test_checkpointing_changes_no_number(backend, kind, fields):
    loss, grads = compute_gradients(backend, fields, EXACT)
    again, checkpointed = compute_gradients(
        backend, fields, dataclasses.replace(EXACT, **{kind: True})
    )
    assert again == pytest.approx(loss, rel=1e-13)
    assert list(checkpointed) == list(grads)
    for name, grad in grads.items():
        scale = 1e-12 * np.abs(grad).max()
        np.testing.assert_allclose(checkpointed[name], grad, 1e-12, scale, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", FIELDS)
def test_a_compiled_step_is_one_graph_in_each_pass(monkeypatch, fields, kind, kernels):
    _, expected = compute_gradients("torch", fields, Options(device="cpu"))
    take_cuda_kernels(monkeypatch, KERNELS[kernels])
    graphs = Graphs(monkeypatch)
    options = Options(device="cpu", compile=True, **{kind: True})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _, grads = compute_gradients("torch", fields, options)
    assert [one for one in told if "continues without" in str(one.message)] == []
    assert (len(graphs.forward), len(graphs.backward)) == (1, 1)
    for name, grad in expected.items():
        scale = 2e-5 * np.abs(grad).max()
        np.testing.assert_allclose(grads[name], grad, 2e-4, scale, err_msg=name)


@pytest.mark.parametrize("fields", FIELDS)
def test_mlx_compiles_a_recomputed_step_as_two_functions(fields):
    """Both passes and the update, of the first step as of the second."""

    def take_steps():
        options = Options(device="cpu", compile=True, grad_checkpoint=True)
        learner, batch = make_case("mlx", fields, options)
        for _ in range(2):
            learner.step(batch, 1e-3)

    assert count_compiled(take_steps)["graphs"] == 2
