"""Checkpointed blocks: what is computed twice, and that every kind of layer is one graph."""

import dataclasses

import numpy as np
import pytest

from hermes.errors import HermesError, Unsupported
from hermes.interface import Options
from hermes.spec import AttentionSpec
from hermes_torch.fused_attention import FUSED_OPERATORS
from tests.backends.support import (
    FLOAT32,
    TRAINING_BACKENDS,
    make_batch,
    make_learner,
    make_spec,
)
from tests.backends.torch.attention_support import (
    FLEX,
    VARLEN,
    CountProducts,
    Graphs,
    make_packed_batch,
    take_cuda_kernels,
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


def compile_with_kernels(monkeypatch, kernels, model, kind):
    """The graphs of a compiled step of packed rows, with kernels of CUDA and checkpoints."""
    T = 40
    take_cuda_kernels(monkeypatch, kernels)
    graphs = Graphs(monkeypatch)
    options = Options(device="cpu", compile=True, **{kind: True})
    model = dataclasses.replace(model, max_seq_len=T)
    make_learner("torch", model, None, options).grads(make_packed_batch(T=T))
    return graphs


@pytest.mark.parametrize(
    "kind", [pytest.param("grad_checkpoint", marks=pytest.mark.long), "selective_checkpoint"]
)
def test_a_compiled_step_with_the_kernel_of_documents_is_one_graph_in_each_pass(monkeypatch, kind):
    """Other kinds of layers: tests/backends/test_checkpointing.py."""
    model = make_spec(layers=1, attention=dataclasses.replace(PLAIN, window_size=20))
    graphs = compile_with_kernels(monkeypatch, VARLEN, model, kind)
    assert (len(graphs.forward), len(graphs.backward)) == (1, 1)


@pytest.mark.parametrize("kernels", [VARLEN, FLEX])
def test_selective_checkpointing_repeats_no_kernel_of_cuda(monkeypatch, kernels):
    model = make_spec(layers=2, attention=dataclasses.replace(PLAIN, head_dim=16))
    graphs = compile_with_kernels(monkeypatch, kernels, model, "selective_checkpoint")
    forward, backward = ([*count_attention(one)] for one in (graphs.forward, graphs.backward))
    assert len(forward) == 2
    assert backward == []


def count_attention(graphs):
    """The forward passes of CUDA's kernels in these graphs."""
    for graph in graphs:
        for node in graph.graph.nodes:
            if str(node.target) in FUSED_OPERATORS:
                yield str(node.target)
