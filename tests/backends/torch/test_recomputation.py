"""Checkpointed blocks: what is computed twice, and that every kind of layer is one graph."""

import dataclasses

import numpy as np
import pytest

from hermes.errors import HermesError, Unsupported
from hermes.interface import Options, TrainState
from hermes.numerics.lora import init_adapters
from hermes.recipe import Lora, Recipe
from hermes.spec import Alibi, AttentionSpec
from hermes_torch.fused_attention import NO_KERNELS
from tests.backends.support import (
    FLOAT32,
    TRAINING_BACKENDS,
    make_batch,
    make_learner,
    make_spec,
    make_weights,
)
from tests.backends.torch.attention_support import (
    VARLEN,
    CountProducts,
    Graphs,
    make_packed_batch,
    take_cuda_kernels,
    without_documents,
)

PLAIN = AttentionSpec(4, 2)
ALL = dataclasses.replace(FLOAT32, grad_checkpoint=True)
SOME = dataclasses.replace(FLOAT32, selective_checkpoint=True)


def count_products(options):
    learner, batch = make_learner("torch", make_spec(), options=options), make_batch()
    with CountProducts() as counts:
        loss, grads = learner.grads(batch)
    return counts, loss, grads


def test_selective_checkpointing_repeats_no_product_and_no_attention():
    """4 products a layer forward and 8 backward; of 2 layers, and the head's 3."""
    plain, loss, grads = count_products(FLOAT32)
    whole, *_ = count_products(ALL)
    some, some_loss, some_grads = count_products(SOME)
    assert (plain.products, plain.attention) == (27, 2)
    # The last product of a block is not repeated: nothing behind it needs its output.
    assert (whole.products, whole.attention) == (27 + 2 * 3, 4)
    assert (some.products, some.attention) == (27, 2)
    assert some_loss == loss
    for name, grad in grads.items():
        np.testing.assert_array_equal(some_grads[name], grad)


def test_both_kinds_at_once_are_refused():
    with pytest.raises(HermesError, match="leave one out"):
        Options(grad_checkpoint=True, selective_checkpoint=True)


def test_mlx_refuses_to_keep_some():
    pytest.importorskip("mlx.core")
    assert "mlx" in TRAINING_BACKENDS
    with pytest.raises(Unsupported, match="use grad_checkpoint, or hermes_torch"):
        make_learner("mlx", make_spec(), options=SOME)


COMBINATIONS = {
    "documents, window": (True, {"window_size": 20}, 0.0, None),
    "ALiBi": (False, {"position_encoding": Alibi()}, 0.0, None),
    "dropout everywhere": (False, {"dropout": 0.1}, 0.1, None),
    "LoRA, documents, dropout": (True, {"dropout": 0.1}, 0.1, Lora(dropout=0.1)),
}
QUICK = {("documents, window", "selective_checkpoint")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(
            name,
            kind,
            marks=() if (name, kind) in QUICK else pytest.mark.long,
            id=f"{name}, {kind}",
        )
        for name in COMBINATIONS
        for kind in ("grad_checkpoint", "selective_checkpoint")
    ],
)
def test_a_compiled_step_is_one_graph_in_each_pass(monkeypatch, name, kind):
    has_documents, change, dropout, lora = COMBINATIONS[name]
    T = 40
    take_cuda_kernels(monkeypatch, VARLEN if name == "documents, window" else NO_KERNELS)
    graphs = Graphs(monkeypatch)
    model = make_spec(layers=1, attention=dataclasses.replace(PLAIN, **change), dropout=dropout)
    batch = make_packed_batch(T=T)
    batch = batch if has_documents else without_documents(batch)
    options = Options(device="cpu", compile=True, **{kind: True})
    model = dataclasses.replace(model, max_seq_len=T)
    weights = make_weights(model)
    adapters = init_adapters(model, lora, 0, weights) if lora else {}
    state = TrainState({**weights, **adapters}, {}, {}, 0)
    learner = make_learner("torch", model, Recipe(lora=lora), options, state)
    learner.grads(batch)
    assert (len(graphs.forward), len(graphs.backward)) == (1, 1)
