"""Attention in blocks, which a compiled pass in bfloat16 has on some processors, is attention."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from hermes.interface import Options, find_backend
from hermes.spec import Alibi, AttentionSpec
from hermes_torch import block_attention
from hermes_torch.block_attention import attend_in_blocks, has_faster_blocks, list_blocks
from tests.backends.support import make_batch, make_learner, make_spec

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)

OPERATOR = "hermes_torch::attend_in_blocks"
FUSED = "aten::_scaled_dot_product_flash_attention_for_cpu"
COMPILED = Options(device="cpu", precision="bfloat16", compile=True)
UNIT = 2**-8  # between one and the next number of bfloat16


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks on any processor, of rows of any length, several in each."""
    torch.compiler.reset()
    block_attention._compile.cache_clear()
    monkeypatch.setattr(block_attention, "FASTER", True)
    monkeypatch.setattr(block_attention, "LEAST_QUERIES", 2)
    monkeypatch.setattr(block_attention, "BLOCK", 4)
    yield
    torch.compiler.reset()
    block_attention._compile.cache_clear()


def make_numbers(*shape, seed=0):
    numbers = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return torch.from_numpy(numbers).bfloat16()


def make_heads(B, H, K, T, D, E, seed=0):
    """Queries, keys and values, laid out as a layer's products give them, and a gradient."""
    shapes = ((B, T, H, D), (B, T, K, D), (B, T, K, E), (B, T, H, E))
    return [make_numbers(*x, seed=seed + i).swapaxes(1, 2) for i, x in enumerate(shapes)]


def differentiate(attend, q, k, v, dy):
    """What attention gives and its gradients, in float64."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    y = attend(*leaves)
    return [x.double() for x in (y.detach(), *torch.autograd.grad(y, leaves, dy))]


def attend_exactly(q, k, v):
    wide = (x.double() for x in (q, k, v))
    return scaled_dot_product_attention(*wide, is_causal=True, scale=0.2, enable_gqa=True)


def measure_errors(*heads):
    """The error of each result of attention in blocks, of its root mean square."""
    *inputs, dy = heads
    found = differentiate(lambda *x: attend_in_blocks(*x, 0.2)[0], *inputs, dy)
    wanted = differentiate(attend_exactly, *inputs, dy.double())
    return [
        ((a - b).square().mean() / b.square().mean()).sqrt().item()
        for a, b in zip(found, wanted, strict=True)
    ]


@pytest.mark.parametrize(
    "sizes",
    [(2, 4, 2, 17, 8, 8), (3, 2, 2, 30, 16, 24), (2, 6, 1, 8, 40, 40), (1, 2, 2, 3, 8, 8)],
    ids=["grouped heads", "wide values", "one head of keys", "one block"],
)
@pytest.mark.usefixtures("small_blocks")
def test_results_and_gradients_are_those_of_float64(sizes):
    assert max(measure_errors(*make_heads(*sizes))) < 1.5 * UNIT


@pytest.mark.usefixtures("small_blocks")
def test_scores_far_from_zero_lose_nothing():
    """Which 8 bits would hold to a whole number alone."""
    q, k, v, dy = make_heads(2, 2, 2, 30, 16, 16)
    q, k = (
        torch.cat([q, q.new_full((2, 2, 30, 1), 64)], -1),
        torch.cat([k, k.new_full((2, 2, 30, 1), 32)], -1),
    )  # each score has 410 more
    found = differentiate(lambda *x: attend_in_blocks(*x, 0.2)[0], q, k, v, dy)
    wanted = differentiate(attend_exactly, q, k, v, dy.double())
    for a, b in zip(found, wanted, strict=True):
        a, b = a[..., :16], b[..., :16]
        assert ((a - b).square().mean() / b.square().mean()).sqrt() < 2.5 * UNIT


@pytest.mark.usefixtures("small_blocks")
def test_probabilities_below_what_float32_has_are_zero():
    q, k, v, dy = make_heads(1, 1, 1, 12, 8, 8)
    y, dq, dk, dv = differentiate(lambda *x: attend_in_blocks(*x, 0.2)[0], 60 * q, 60 * k, v, dy)
    for x in (y, dq, dk, dv):
        assert torch.isfinite(x).all()
    wanted = differentiate(attend_exactly, 60 * q, 60 * k, v, dy.double())
    torch.testing.assert_close(y, wanted[0], rtol=4 * UNIT, atol=4 * UNIT)


@pytest.mark.usefixtures("small_blocks")
def test_what_is_no_number_stays_seen():
    q, k, v, _ = make_heads(1, 2, 2, 9, 8, 8)
    k[0, 1, 4, 3] = torch.nan
    y, _ = attend_in_blocks(q, k, v, 0.2)
    assert torch.isnan(y[0, 1, 4:]).all()
    assert torch.isfinite(y[0, 0]).all()
    assert torch.isfinite(y[0, 1, :4]).all()


@pytest.mark.usefixtures("small_blocks")
def test_rows_are_taken_apart_where_scores_are_large(monkeypatch):
    heads = make_heads(5, 2, 2, 9, 8, 8)[:3]
    whole = attend_in_blocks(*heads, 0.2)
    monkeypatch.setattr(block_attention, "MOST_BYTES", 2 * (2 * 2 * 4 * 9))
    apart = attend_in_blocks(*heads, 0.2)
    for a, b in zip(whole, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        assert a.stride() == b.stride()


@pytest.mark.usefixtures("small_blocks")
def test_the_operator_is_what_it_tells_the_compiler_and_has_gradients():
    heads = [x.requires_grad_() for x in make_heads(2, 4, 2, 9, 8, 8)[:3]]
    torch.library.opcheck(
        attend_in_blocks,
        (*heads, 0.2),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize("length", [1, 127, 128, 129, 512, 1024, 1025])
def test_blocks_have_every_query(length):
    blocks = list_blocks(length)
    starts, ends = zip(*blocks, strict=True)
    assert (*starts, length) == (0, *ends)


def count_operations(spec, options=COMPILED, **batch):
    learner = make_learner("torch", spec, options=options)
    batch = make_batch(**batch)
    learner.step(batch, 1e-3)
    work = find_backend("torch").count_work(lambda: learner.step(batch, 1e-3))
    return work, work.operations.get(OPERATOR, 0), work.operations.get(FUSED, 0)


@pytest.mark.usefixtures("small_blocks")
def test_a_compiled_pass_of_causal_rows_has_blocks_and_one_graph():
    work, blocks, fused = count_operations(make_spec(attention=AttentionSpec(4, 2)))
    assert (blocks, fused) == (2, 0)  # 2 layers
    assert work.fused_attention == 2
    assert work.graphs == work.graph_breaks == 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("attention", "options"),
    [
        (AttentionSpec(4, 2), dataclasses.replace(COMPILED, compile=False)),
        (AttentionSpec(4, 2), dataclasses.replace(COMPILED, precision="float32")),
        (AttentionSpec(4, 2, window_size=3), COMPILED),
        (AttentionSpec(4, 2, softcap=5.0), COMPILED),
        (AttentionSpec(4, 2, position_encoding=Alibi()), COMPILED),
    ],
    ids=["eager", "float32", "window", "soft cap", "alibi"],
)
def test_everything_else_is_as_before(attention, options):
    assert count_operations(make_spec(attention=attention), options)[1] == 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("checkpoint", [None, "grad_checkpoint", "selective_checkpoint"])
def test_a_learner_has_the_gradients_of_float64(checkpoint):
    spec, batch = make_spec(attention=AttentionSpec(4, 2)), make_batch()
    exact = Options(device="cpu", precision="float64")
    wanted_loss, wanted = make_learner("torch", spec, options=exact).grads(batch)
    options = dataclasses.replace(COMPILED, **({checkpoint: True} if checkpoint else {}))
    loss, found = make_learner("torch", spec, options=options).grads(batch)
    assert loss == pytest.approx(wanted_loss, rel=4 * UNIT)
    for name, gradient in wanted.items():
        error = np.sqrt(np.mean(np.square(found[name] - gradient)))
        assert error < 8 * UNIT * max(np.sqrt(np.mean(np.square(gradient))), 1e-3), name


@pytest.mark.usefixtures("small_blocks")
def test_longer_rows_have_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(block_attention, "MOST_QUERIES", 3)
    assert count_operations(make_spec(attention=AttentionSpec(4, 2)))[1:] == (0, 2)


def test_selective_checkpoints_keep_what_blocks_gave(small_blocks):
    options = dataclasses.replace(COMPILED, selective_checkpoint=True)
    assert count_operations(make_spec(attention=AttentionSpec(4, 2)), options)[1] == 2


def test_a_processor_that_torch_knows_nothing_of_has_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert not has_faster_blocks()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": True}, False),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": True}, False),
    ],
)
def test_blocks_are_for_processors_of_which_it_was_measured(monkeypatch, facts, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts, raising=False)
    assert has_faster_blocks() == expected
