"""What KV caches keep keys and values in: on a CPU float32, which its attention reads faster."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from hermes.errors import is_out_of_memory
from hermes.interface import Options, find_backend
from hermes.numerics.params import init_weights
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes_torch.cache import choose_cache_type

WINDOW = AttentionSpec(2, window_size=3)


def make_model(precision):
    blocks = tuple(BlockSpec(one, FfnSpec(hidden_dim=24)) for one in (AttentionSpec(2), WINDOW))
    spec = ModelSpec(blocks, "m", "", 23, 16, 16, 2)
    return find_backend("torch").build(spec, init_weights(spec, 5), Options("cpu", precision))


def list_types(cache):
    return {buffer.dtype for buffers in cache._layers for buffer in buffers}


@pytest.mark.parametrize(
    ("precision", "kept"),
    [("bfloat16", torch.float32), ("float16", torch.float32), ("float64", torch.float64)],
)
def test_sixteen_bits_are_kept_in_float32_on_a_cpu(precision, kept):
    model, ids = make_model(precision), np.arange(7)[None]
    together = model.decoder(1, 16)
    together.advance(ids)
    rows = model.row_decoder(2, 16)
    rows.open_row(1, 16)
    rows.advance([1], ids, [7])
    rows.advance([1], ids[:, :1], [1])
    assert list_types(together._cache) == list_types(rows._cache) == {kept}
    # Nothing but what the type has: a prompt cache in a file is what it was.
    for part in rows.read_row(1).values():
        own = torch.from_numpy(np.array(part)).to(getattr(torch, precision))
        np.testing.assert_array_equal(own.to(torch.float64).numpy(), part.astype(np.float64))


def test_a_gpu_keeps_what_the_pass_has():
    """In whose memory a cache of twice the size would halve the rows that are served."""
    assert choose_cache_type(torch.bfloat16, torch.device("cuda")) == torch.bfloat16


def test_a_cache_of_rows_is_refused_before_a_text_begins_and_before_its_memory_is_written():
    """As the decoder is made: a server that has begun would refuse every request."""
    model = make_model("float32")
    address_space = 1 << 47
    with pytest.raises(RuntimeError, match="can't allocate memory") as refused:
        model.row_decoder(4, address_space // (4 * 16 * 4))
    assert is_out_of_memory(refused.value)
