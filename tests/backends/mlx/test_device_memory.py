"""What hermes_mlx asks of a Mac's memory, on a CPU that says it is Metal."""

import dataclasses
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from hermes.inference.decoding import generate_tokens
from hermes.inference.engine import Engine
from hermes.inference.request import Request
from hermes.inference.sampling import GREEDY
from hermes.interface import Options, find_backend
from hermes.model_info.fitting import find_free_memory
from hermes.numerics.chunking import count_chunk_tokens
from hermes.numerics.params import init_weights
from hermes_mlx import chunked_loss, inference, row_decoder
from tests.backends.mlx.played_metal import play_metal
from tests.backends.support import make_batch, make_learner, make_spec

WORKING_SET = 96 << 30


@pytest.fixture
def metal(monkeypatch):
    return play_metal(monkeypatch, WORKING_SET)


def test_training_wires_the_working_set_and_bounds_what_is_kept(metal):
    options = Options(device="gpu", compile=False)
    float(make_learner("mlx", make_spec(), options=options).step(make_batch(), 1e-3).loss)
    assert metal == [("set_wired_limit", WORKING_SET), ("set_cache_limit", WORKING_SET // 4)]


@pytest.mark.parametrize("in_rows", [False, True])
def test_generation_gives_freed_buffers_back_every_256_tokens(metal, in_rows):
    spec = dataclasses.replace(make_spec(), max_seq_len=700)
    model = find_backend("mlx").build(spec, init_weights(spec, 0), Options(device="gpu"))
    assert ("set_wired_limit", WORKING_SET) in metal
    metal.clear()
    tokens = np.zeros((1, 250), np.int32)
    if in_rows:
        decoder = model.row_decoder(1, 700)
        decoder.open_row(0, 700)
        decoder.advance([0], tokens, [250])
    else:
        decoder = model.decoder(1, 700)
        decoder.advance(tokens)
    assert metal == []
    for _ in range(270):
        one = np.zeros((1, 1), np.int32)
        decoder.advance([0], one, [1]) if in_rows else decoder.advance(one)
    assert metal == [("clear_cache",)] * 2


@pytest.mark.parametrize(("device", "first"), [("gpu", 2048), ("cpu", 512)])
def test_a_prompt_is_read_in_longer_chunks_on_metal(metal, monkeypatch, device, first):
    spec = dataclasses.replace(make_spec(), max_seq_len=2100)
    model = find_backend("mlx").build(spec, init_weights(spec, 0), Options(device=device))
    prompt, read = [1] * 2060, []
    for kind in (inference.Decoder, row_decoder.RowDecoder):
        note = partial(note_reads, read, kind.advance)
        monkeypatch.setattr(kind, "advance", lambda self, *a, note=note: note(self, *a))
    whole, rest = divmod(len(prompt), first)
    assert list(generate_tokens(model, prompt, max_tokens=1, sampling=GREEDY))
    assert read == [*[first] * whole, rest]
    read.clear()
    engine = Engine(model, rows=1)
    engine.submit(Request(tuple(prompt), max_tokens=1))
    engine.run()
    assert (read[0], max(read)) == (first, first)  # the last ones by `choose`


def note_reads(read, advance, self, *arguments):
    """Call `advance`; keep how many tokens of a row it read."""
    read.append(next(one.shape[1] for one in arguments if isinstance(one, np.ndarray)))
    return advance(self, *arguments)


def test_what_is_free_is_of_the_working_set(metal, monkeypatch):
    backend = find_backend("mlx")
    monkeypatch.setattr(mx, "get_active_memory", lambda: 90 << 30)
    assert find_free_memory(backend, "gpu").available == 6 << 30
    assert not find_free_memory(backend, "gpu").is_shared
    assert find_free_memory(backend, "cpu").is_shared


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_chunks_of_the_loss_are_those_of_the_device_that_computes(monkeypatch, device):
    """A Mac has a GPU, too, while it trains on its CPU."""
    sizes, choose = [], chunked_loss.choose_chunk_size
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    if device == "gpu":
        monkeypatch.setattr(mx, "gpu", mx.cpu)
    monkeypatch.setattr(
        chunked_loss,
        "choose_chunk_size",
        lambda module: sizes.append(choose(module)) or sizes[-1],
    )
    learner = make_learner("mlx", make_spec(), options=Options(device="cpu"))
    learner.grads(make_batch())
    logits = chunked_loss.GPU_CHUNK_LOGITS if device == "gpu" else chunked_loss.CHUNK_LOGITS
    assert sizes == [count_chunk_tokens(make_spec().vocab_size, logits)]


def test_a_cpu_is_asked_for_nothing(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("of a CPU nothing is wired")

    for name in ("set_wired_limit", "set_cache_limit", "clear_cache"):
        monkeypatch.setattr(mx, name, refuse)
    float(make_learner("mlx", make_spec()).step(make_batch(), 1e-3).loss)
