"""What a step moves grows no faster than the model, its vocabulary or its batch: by counts.

Attention's own growth with the context is left out: of torch's kernels none has every query and
key, and MLX's on a CPU write them.
"""

import mlx.core as mx
import numpy as np
import pytest

from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.numerics.chunking import FEWEST_TOKENS, count_chunk_tokens
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes_mlx import chunked_loss as mlx_loss
from hermes_torch import chunked_loss as torch_loss
from tests.backends.counting import Kernels
from tests.backends.mlx_graphs import count_training

SMALL = {"vocabulary": 64, "depth": 1, "batch": 2, "context": 32}


def count_bytes(name, *, vocabulary, depth, batch, context):
    """Bytes that a step reads and writes."""
    block = BlockSpec(AttentionSpec(2), FfnSpec(hidden_dim=48))
    spec = ModelSpec((block,), "growing", "", vocabulary, context, 32, depth)
    state, options = TrainState(init_weights(spec, 0), {}, {}, 0), Options("cpu", compile=False)
    learner = find_backend(name).learner(spec, state, Recipe(), options)
    ids = np.random.default_rng(0).integers(0, vocabulary, (1, batch, context + 1), np.int32)
    rows = np.arange(batch, dtype=np.uint32)[None]
    drawn = Batch(ids[..., :-1], ids[..., 1:].copy(), rows)
    if name == "mlx":
        float(learner.step(drawn, 1e-3).loss)
        found = count_training(learner, drawn).values()
        return sum(one["bytes_read"] + one["bytes_written"] for one in found)
    with Kernels() as kernels:
        float(learner.step(drawn, 1e-3).loss)
    return kernels.counts["bytes_read"] + kernels.counts["bytes_written"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of the loss as small beside this vocabulary as those of 256,000 tokens are."""
    monkeypatch.setattr(torch_loss, "CHUNK_LOGITS", {"cpu": 1 << 14})
    monkeypatch.setattr(mlx_loss, "CHUNK_LOGITS", 1 << 14)


AXES = {
    "vocabulary": (1024, 4096),
    "depth": (4, 16),
    "batch": (4, 16, 64),
    "context": (32, 128, 512),
}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_bytes_grow_no_faster_than_what_grows(name, axis):
    if (name, axis) == ("mlx", "context"):
        pytest.skip("MLX's attention on a CPU writes the scores of every query and key")
    first, *_, last = sizes = AXES[axis]
    found = [count_bytes(name, **SMALL | {axis: size}) for size in sizes]
    assert found == sorted(found)
    grown = found[-1] / found[0]
    assert grown < 1.05 * last / first, (grown, found)
    assert grown > 0.3 * last / first  # what was counted is what grows
    mx.clear_cache()


def test_chunks_of_a_large_vocabulary_are_half_a_head_at_most():
    for hidden_size in (0, 64, 256, 768, 4096):
        for vocabulary in (1_000, 50_257, 64_000, 151_936, 256_000, 1_000_000):
            tokens = count_chunk_tokens(vocabulary, 1 << 23, hidden_size)
            plain = count_chunk_tokens(vocabulary, 1 << 23)
            assert tokens >= plain
            if tokens > plain:
                assert tokens <= min(FEWEST_TOKENS, hidden_size // 2)
    assert count_chunk_tokens(50_257, 1 << 23, 4096) == FEWEST_TOKENS
    assert count_chunk_tokens(256_000, 1 << 23, 256) == 128
    assert count_chunk_tokens(256_000, 1 << 28, 256) == (1 << 28) // 256_000
