"""MLX is not asked for more than the limits of the process leave, since it would end silently."""

import gc

import mlx.core as mx
import numpy as np
import pytest

from hermes.interface import Batch, Options, find_backend
from hermes.numerics.chunking import count_chunk_tokens
from hermes.numerics.params import init_weights
from hermes.numerics.row_layout import count_cache_bytes
from hermes.process_limits import ProcessLimit
from hermes.spec import Alibi, AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes_mlx import pass_memory
from hermes_mlx.chunked_loss import CHUNK_LOGITS
from hermes_mlx.pass_memory import MARGIN, count_pass_bytes, require_room

# Each with one part that is much larger than the others.
SHAPES = {
    "wide": (256, 500, AttentionSpec(num_heads=4), 256),
    "inner": (32, 500, AttentionSpec(num_heads=2), 4096),
    "heads": (32, 500, AttentionSpec(num_heads=16, head_dim=2), 32),
    "keys": (32, 500, AttentionSpec(num_heads=16, num_kv_heads=2, head_dim=32), 32),
    "capped": (32, 500, AttentionSpec(num_heads=8, head_dim=4, softcap=30.0), 32),
    "alibi": (32, 500, AttentionSpec(num_heads=8, head_dim=4, position_encoding=Alibi()), 32),
    "window": (32, 500, AttentionSpec(num_heads=8, head_dim=4, window_size=60), 32),
    "words": (32, 30_000, AttentionSpec(num_heads=2), 32),
}
BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}


def make_model(name, precision):
    C, V, attention, F = SHAPES[name]
    spec = ModelSpec(
        blocks=(BlockSpec(attention, FfnSpec(hidden_dim=F)),),
        vocab_size=V,
        max_seq_len=1024,
        hidden_size=C,
        num_layers=3,
    )
    options = Options(device="cpu", precision=precision)
    return spec, find_backend("mlx").build(spec, init_weights(spec, 1), options)


def measure_peak(run):
    gc.collect()
    mx.synchronize()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    run()
    mx.synchronize()
    return mx.get_peak_memory() - held


def read_rows(model, spec, rows, tokens, a):
    decoder = model.row_decoder(rows, 300)
    for row in range(rows):
        decoder.open_row(row, 300)
    ids = np.ones((rows, tokens), np.int32)
    counted = count_cache_bytes(spec, rows, 300, a)
    counted += count_pass_bytes(spec, rows, tokens, tokens, a, rows)
    return measure_peak(lambda: decoder.advance(range(rows), ids, [tokens] * rows)), counted


def prefill(model, spec, tokens, a):
    """The second chunk of a prompt."""
    decoder, ids = model.decoder(1, 2 * tokens), np.ones((1, tokens), np.int32)
    decoder.advance(ids)
    counted = count_pass_bytes(spec, 1, tokens, 2 * tokens, a, 1)
    return measure_peak(lambda: decoder.advance(ids)), counted


def compute_logits(model, spec, rows, tokens, a):
    ids = np.ones((rows, tokens), np.int32)
    counted = count_pass_bytes(spec, rows, tokens, tokens, a, rows * tokens)
    return measure_peak(lambda: model.logits(ids)), counted


def compute_loss(model, spec, rows, tokens, a):
    ids = np.ones((1, rows, tokens), np.int32)
    batch = Batch(ids, ids, np.arange(rows, dtype=np.uint32)[None])
    chunk = min(count_chunk_tokens(spec.vocab_size, CHUNK_LOGITS), rows * tokens)
    counted = count_pass_bytes(spec, rows, tokens, tokens, a, chunk, scores=True)
    return measure_peak(lambda: model.loss(batch)), counted


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, precision) for name in SHAPES for precision in ("float32", "bfloat16")),
        ("inner", "float64"),
        ("heads", "float64"),
    ],
)
def test_a_pass_takes_no_more_than_is_counted(name, precision):
    """And not much less, or too much would be refused."""
    (spec, model), a = make_model(name, precision), BYTES[precision]
    for peak, counted in (
        read_rows(model, spec, 3, 90, a),
        prefill(model, spec, 160, a),
        compute_logits(model, spec, 2, 120, a),
        compute_loss(model, spec, 3, 120, a),
    ):
        assert peak <= counted + MARGIN / 4
        if precision != "float64" and peak > MARGIN / 4:
            assert counted <= 4 * peak


@pytest.fixture
def limit(monkeypatch):
    """A limit of the process, of which so many bytes are left."""

    def give(left, name="ulimit -v"):
        found = [] if left is None else [ProcessLimit(name, 2 * left, left)]
        monkeypatch.setattr(pass_memory, "list_process_limits", lambda: found)

    return give


def test_what_does_not_fit_is_an_error_of_memory_and_what_fits_is_none(limit):
    cpu, gpu = mx.Device(mx.cpu), mx.Device(mx.gpu)
    limit(MARGIN + 100)
    require_room(cpu, lambda: 100)
    require_room(gpu, lambda: 101)
    with pytest.raises(MemoryError, match=r"^MLX needs 101 B more, and ulimit -v leaves 33.6 MB$"):
        require_room(cpu, lambda: 101)
    limit(MARGIN, "ulimit -d")
    with pytest.raises(MemoryError, match=r"ulimit -d leaves 33.6 MB$"):
        require_room(cpu, lambda: 1)
    limit(None)
    require_room(cpu, lambda: pytest.fail("nothing is counted without limits"))


def list_ways(model):
    ids = np.ones((2, 8), np.int32)
    batch = Batch(ids[None], ids[None], np.arange(2, dtype=np.uint32)[None])
    decoder, rows, alone = (
        model.decoder(2, 9),
        model.row_decoder(2, 9),
        model.invariant_row_decoder(2, 9),
    )
    for one in (rows, alone):
        one.open_row(0, 9)
        one.open_row(1, 9)
    return {
        "logits": lambda: model.logits(ids),
        "logprobs": lambda: model.logprobs(ids, ids),
        "row_logprobs": lambda: model.row_logprobs(ids, ids),
        "loss": lambda: model.loss(batch),
        "decoder": lambda: model.decoder(2, 9),
        "row_decoder": lambda: model.row_decoder(2, 9),
        "invariant_row_decoder": lambda: model.invariant_row_decoder(2, 9),
        "decoder.advance": lambda: decoder.advance(ids),
        "row_decoder.advance": lambda: rows.advance([0, 1], ids, [8, 8]),
        "invariant_row_decoder.advance": lambda: alone.advance([0, 1], ids, [8, 8]),
    }


def test_every_way_into_a_model_looks_at_the_limits(limit):
    _, model = make_model("heads", "float32")
    ways = list_ways(model)
    for way in ways.values():
        limit(MARGIN)
        with pytest.raises(MemoryError, match=r"^MLX needs"):
            way()
        limit(1 << 40)
        way()
    limit(MARGIN)
    with pytest.raises(MemoryError, match=r"^MLX needs"):
        make_model("heads", "float32")
