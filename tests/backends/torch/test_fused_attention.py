"""Attention by CUDA's kernels is the written-out form, with no mask and no scores of (T, T)."""

import dataclasses

import numpy as np
import pytest
import torch
from torch._inductor.exc import InductorError

from hermes.interface import Options, find_backend
from hermes.spec import Alibi, AttentionSpec
from hermes_torch import fused_attention
from hermes_torch.fused_attention import (
    BLOCK,
    Kernels,
    choose_kernel,
    describe_slow_layers,
    find_kernels,
    make_block_mask,
)
from tests.backends.support import FLOAT32, make_learner, make_spec
from tests.backends.torch.attention_support import (
    FLEX,
    VARLEN,
    Graphs,
    make_packed_batch,
    take_cuda_kernels,
    without_documents,
)

BOTH = Kernels(varlen=True, flex=True)
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
PLAIN = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=16)
NO_ROPE = dataclasses.replace(PLAIN, position_encoding=Alibi())
COMPILED = Options(device="cpu", compile=True)


def resolve(attention, T=150):
    model = make_spec(attention=attention)
    return dataclasses.replace(model, max_seq_len=T).attentions[0]


@pytest.mark.parametrize(
    ("kernels", "change", "asks", "chosen"),
    [
        (BOTH, {}, {}, "sdpa"),
        (BOTH, {}, {"has_segments": True}, "varlen"),
        (BOTH, {"window_size": 20}, {}, "varlen"),
        (BOTH, {"window_size": 200}, {}, "sdpa"),
        (BOTH, {"softcap": 5.0}, {}, "flex"),
        (BOTH, {"sinks": True}, {}, "flex"),
        (BOTH, {"dropout": 0.1}, {"has_dropout": True}, "flex"),
        (BOTH, {"position_encoding": Alibi()}, {"has_segments": True}, "flex"),
        (BOTH, {"head_dim": 12}, {"has_segments": True}, "sdpa"),
        (BOTH, {"head_dim": 12, "softcap": 5.0}, {}, "written out"),
        (BOTH, {"softcap": 5.0}, {"is_whole": False}, "written out"),
        (FLEX, {}, {"has_segments": True}, "flex"),
        (
            Kernels(flex=True, atomic=False),
            {"position_encoding": Alibi(slopes="learned")},
            {},
            "sdpa",
        ),
        (Kernels(), {}, {"has_segments": True}, "sdpa"),
        (Kernels(), {"softcap": 5.0}, {}, "written out"),
    ],
)
def test_the_fastest_kernel_that_has_what_a_layer_asks_for(kernels, change, asks, chosen):
    spec = resolve(dataclasses.replace(PLAIN, **change))
    asks = {"has_segments": False, "has_dropout": False, **asks}
    assert choose_kernel(kernels, spec, 150, **asks) == chosen


def test_a_cpu_has_none_of_them():
    assert find_kernels(torch.device("cpu"), torch.bfloat16, FLOAT32) == Kernels()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 40, 128, 300])
@pytest.mark.parametrize("T", [100, 256, 500])
def test_blocks_are_read_where_the_mask_is_true_and_in_full_where_it_is_all_true(causal, window, T):
    spec = dataclasses.replace(resolve(PLAIN), causal=causal, window_size=window)
    generator = torch.manual_seed(T)
    segments = (torch.rand(2, T, generator=generator) < 0.01).cumsum(-1)
    for documents in (None, segments):
        mask = make_block_mask(T, spec, documents, "cpu")
        i = torch.arange(T)
        allowed = torch.ones(1, T, T, dtype=torch.bool)
        allowed = allowed & (i[:, None] >= i) if causal else allowed
        if window is not None:
            allowed = allowed & ((i[:, None] - i).abs() < window)
        if documents is not None:
            allowed = allowed & (documents[:, :, None] == documents[:, None])
        n = -(-T // BLOCK)
        padded = torch.nn.functional.pad(allowed, (0, n * BLOCK - T) * 2)
        blocks = padded.reshape(-1, n, BLOCK, n, BLOCK).transpose(2, 3)
        reads = {}
        for name in ("kv", "full_kv"):
            count, order = getattr(mask, f"{name}_num_blocks"), getattr(mask, f"{name}_indices")
            taken = torch.arange(n) < count[..., None]
            reads[name] = torch.zeros_like(taken).scatter(-1, order.long(), taken)[:, 0]
        assert not (reads["kv"] & reads["full_kv"]).any()
        read = reads["kv"] | reads["full_kv"]
        assert (read | ~blocks.any((-2, -1))).all()
        assert (blocks.all((-2, -1)) | ~reads["full_kv"]).all()
        rule = mask.mask_mod(torch.arange(len(allowed))[:, None, None], 0, i[:, None], i)
        assert torch.equal(rule.expand_as(allowed), allowed)
        if documents is None:  # with no documents the blocks are exact
            assert torch.equal(read, blocks.any((-2, -1)))
            assert torch.equal(reads["full_kv"], blocks.all((-2, -1)))


def compare(monkeypatch, kernels, attention, batch):
    """The loss and gradients of one layer with the kernels and without, in float32."""
    model = dataclasses.replace(make_spec(layers=1, attention=attention), max_seq_len=150)
    model = dataclasses.replace(model, hidden_size=64)
    loss, grads = make_learner("torch", model, options=FLOAT32).grads(batch)
    take_cuda_kernels(monkeypatch, kernels)
    found_loss, found = make_learner("torch", model, options=FLOAT32).grads(batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    for name, grad in grads.items():
        error = np.linalg.norm(found[name] - grad) / max(np.linalg.norm(grad), 1e-6)
        assert error < 1e-5, name


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"window_size": 20},
        {"window_size": 20, "causal": False},
        {"causal": False},
    ],
)
def test_variable_lengths_give_the_written_out_loss_and_gradients(monkeypatch, change):
    attention = dataclasses.replace(PLAIN, **change)
    compare(monkeypatch, VARLEN, attention, make_packed_batch())


def test_a_window_alone_needs_no_documents(monkeypatch):
    batch = without_documents(make_packed_batch())
    compare(monkeypatch, VARLEN, dataclasses.replace(PLAIN, window_size=20), batch)


def test_boundaries_are_of_a_power_of_two_of_documents_and_never_of_fewer(monkeypatch):
    take_cuda_kernels(monkeypatch, VARLEN)
    runtime = make_learner("torch", make_spec(), options=FLOAT32).runtime
    few, many = np.array([[0, 0, 1, 1], [0, 0, 0, 0]]), np.array([[0, 1, 2, 2], [0, 1, 1, 1]])
    assert runtime.load_boundaries(few).tolist() == [0, 2, 4, 8, 8]
    assert runtime.load_boundaries(many).tolist() == [0, 1, 2, 4, 5, 8, 8, 8, 8]
    assert runtime.load_boundaries(few).tolist() == [0, 2, 4, 8, 8, 8, 8, 8, 8]
    assert runtime.load_boundaries(None) is None
    assert runtime.load_boundaries(many).dtype == torch.int32


FORMULAS = {
    "dropout": {"dropout": 0.3},
    "dropout, window, soft cap, sinks": {
        "dropout": 0.3,
        "window_size": 40,
        "softcap": 5.0,
        "sinks": True,
    },
    "learned slopes, sinks": {"position_encoding": Alibi(slopes="learned"), "sinks": True},
    "learned slopes, dropout": {"position_encoding": Alibi(slopes="learned"), "dropout": 0.1},
    "soft cap, both ways": {"softcap": 5.0, "causal": False},
    "documents": {},
    "window_size": {"window_size": 20, "v_head_dim": 24},
}
QUICK = ("dropout, window, soft cap, sinks", "learned slopes, sinks")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in FORMULAS]
)
def test_flex_attention_gives_the_written_out_loss_and_gradients(monkeypatch, name):
    attention = dataclasses.replace(PLAIN, **FORMULAS[name])
    batch = make_packed_batch()
    compare(monkeypatch, FLEX, attention, without_documents(batch) if name == "dropout" else batch)


COUNTED = {
    "documents": ({}, True, VARLEN),
    "window": ({"window_size": 20}, False, VARLEN),
    "documents in float32": ({}, True, FLEX),
    "dropout": ({"dropout": 0.1}, False, FLEX),
    "learned slopes": ({"position_encoding": Alibi(slopes="learned")}, True, FLEX),
    "soft cap": ({"softcap": 5.0}, False, FLEX),
}
QUICK_COUNTS = ("documents", "learned slopes")


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize(
    "name", [n if n in QUICK_COUNTS else pytest.param(n, marks=pytest.mark.long) for n in COUNTED]
)
def test_a_compiled_step_is_one_graph_with_nothing_of_every_query_and_key(
    monkeypatch, name, checkpointing
):
    change, has_documents, kernels = COUNTED[name]
    T = 150
    take_cuda_kernels(monkeypatch, kernels)
    graphs = Graphs(monkeypatch)
    attention = dataclasses.replace(PLAIN, **change)
    model = dataclasses.replace(make_spec(layers=1, attention=attention), max_seq_len=T)
    batch = make_packed_batch(T=T)
    batch = batch if has_documents else without_documents(batch)
    options = dataclasses.replace(COMPILED, grad_checkpoint=checkpointing)
    make_learner("torch", model, options=options).grads(batch)
    assert (len(graphs.forward), len(graphs.backward)) == (1, 1)
    assert graphs.count_squares(T) == 0


@pytest.mark.parametrize(
    ("kernels", "change", "said"),
    [
        (BOTH, {}, None),
        (BOTH, {"softcap": 5.0, "window_size": 20}, None),
        (VARLEN, {}, None),
        (VARLEN, {"softcap": 5.0}, "needs torch.compile and Triton here; leave out --no-compile"),
        (BOTH, {"softcap": 5.0, "head_dim": 12}, "takes heads of 16 numbers and more"),
        (
            Kernels(varlen=True, flex=True, atomic=False),
            {"position_encoding": Alibi(slopes="learned")},
            "sums learned slopes in any order; leave out --deterministic",
        ),
    ],
)
def test_a_run_says_which_layers_have_no_kernel(kernels, change, said):
    model = make_spec(attention=dataclasses.replace(PLAIN, **change))
    told = describe_slow_layers(kernels, model, has_segments=True, has_dropout=True)
    beginning = "attention of 2 of 2 layers moves tensors of every query and key: FlexAttention"
    assert told == (said and f"{beginning} {said}")


def test_a_run_on_a_cpu_says_nothing():
    backend = find_backend("torch")
    said = backend.describe_attention(make_spec(), FLOAT32, has_segments=True, has_dropout=True)
    assert said is None


def test_where_the_compiler_fails_a_model_computes_what_it_would_without(monkeypatch):
    attention = dataclasses.replace(PLAIN, softcap=5.0)
    model = dataclasses.replace(make_spec(attention=attention), max_seq_len=150)
    batch = make_packed_batch()
    expected = make_learner("torch", model, options=FLOAT32).loss(batch)
    take_cuda_kernels(monkeypatch, dataclasses.replace(FLEX))

    def fail(*args, **options):
        raise InductorError(RuntimeError("out of resources: shared memory"), None)

    monkeypatch.setattr(fused_attention, "_compile_flex", lambda: fail)
    learner = make_learner("torch", model, options=FLOAT32)
    with pytest.warns(UserWarning, match="torch.compile failed, so the run"):
        assert learner.loss(batch) == expected
    assert not learner.runtime.kernels.flex
    assert learner.loss(batch) == expected
