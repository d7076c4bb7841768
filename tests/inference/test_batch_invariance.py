"""With batch_invariant a text's logits are the same bits alone and in company."""

import dataclasses

import numpy as np
import pytest

from hermes.inference.batch_generation import run_requests
from hermes.inference.engine import Engine
from hermes.inference.invariant_reading import WholeChunks
from hermes.inference.request import Request
from hermes.inference.row_decoding import SeparateRows, make_row_decoder
from hermes.inference.sampling import GREEDY, Sampling
from hermes.interface import Options, find_backend
from hermes.numerics.params import init_weights
from hermes.numerics.row_layout import list_invariant_reads, pad_rows
from tests.inference.support import ATTENTIONS, V, make_spec

BACKENDS = ["torch", "mlx"]
CHUNK = 8


def build_model(backend, kind="rope", precision="bfloat16"):
    """A model wide enough for kernels to differ by shape, with loud weights."""
    spec = dataclasses.replace(make_spec(kind, 96), hidden_size=48)
    loud = {
        name: array * 12 if array.ndim > 1 else array
        for name, array in init_weights(spec, 3).items()
    }
    return find_backend(backend).build(spec, loud, Options(device="cpu", precision=precision))


def make_requests(count, longest=40):
    random = np.random.default_rng(count)
    shared = random.integers(0, V, 2 * CHUNK + 3).tolist()
    found = []
    for index in range(count):
        own = random.integers(0, V, random.integers(1, longest)).tolist()
        prompt = shared + own[: 1 + index % 7] if index % 2 else own
        how = GREEDY if index % 3 else Sampling(temperature=0.9)
        found.append(Request(tuple(prompt), int(random.integers(1, 18)), how, seed=index))
    return found


class Traced:
    """An engine, and the logits from which each text was chosen."""

    def __init__(self, model, **options):
        options = {"rows": 5, "prefill_chunk": CHUNK, "batch_invariant": True} | options
        self.engine = Engine(model, **options)
        self._logits = {}
        choose = self.engine._choose

        def note(row, logits):
            self._logits.setdefault(row.generation, []).append(np.array(logits))
            choose(row, logits)

        self.engine._choose = note

    def tell(self, generation):
        return generation.tokens, np.stack(self._logits[generation]).tobytes()

    def run(self, requests):
        return [self.tell(one) for one in run_requests(self.engine, requests)]


def run_alone(model, requests, **options):
    return [Traced(model, **options).run([request])[0] for request in requests]


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_has_the_same_bits_alone_and_in_company(backend, kind):
    model, requests = build_model(backend, kind), make_requests(8)
    assert Traced(model).run(requests) == run_alone(model, requests)


@pytest.mark.parametrize("backend", BACKENDS)
def test_so_has_float32(backend):
    model, requests = build_model(backend, precision="float32"), make_requests(8)
    assert Traced(model).run(requests) == run_alone(model, requests)
    # Without the option it has not: the law can fail.
    plain = {"batch_invariant": False}
    assert Traced(model, **plain).run(requests) != run_alone(model, requests, **plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_does_not_matter_who_enters_when(backend):
    model, requests = build_model(backend), make_requests(8)
    traced = Traced(model, rows=3)
    waiting, generations = list(requests), []
    while waiting or traced.engine.num_running or traced.engine.num_waiting:
        if waiting:
            generations.append(traced.engine.submit(waiting.pop()))
        traced.engine.step()
    found = [traced.tell(one) for one in reversed(generations)]
    assert found == run_alone(model, requests, rows=3)


@pytest.mark.parametrize("backend", [*BACKENDS, "numpy"])
def test_whole_chunks_are_taken_from_others(backend):
    model = build_model(backend, precision="float64" if backend == "numpy" else "bfloat16")
    prompt = tuple(np.random.default_rng(0).integers(0, V, 3 * CHUNK + 5).tolist())
    engine = Engine(model, rows=2, prefill_chunk=CHUNK, batch_invariant=True)
    done = run_requests(engine, [Request(prompt, 4), Request((*prompt, 1), 4)])
    # numpy shares between rows of equal capacity only; these differ by one token.
    assert [one.num_reused for one in done] == [0, 0 if backend == "numpy" else 3 * CHUNK]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rows_place_changes_nothing(backend):
    model = build_model(backend, precision="float32")
    text = np.random.default_rng(1).integers(0, V, (7, 12))
    found = []
    for row in range(7):
        decoder = make_row_decoder(model, 7, 40, batch_invariant=True)
        tokens = np.roll(text, row, 0)
        for each in range(7):
            decoder.open_row(each, 20)
            decoder.advance([each], tokens[each : each + 1, : 10 if each == row else 3 + each],
                            [10 if each == row else 3 + each])  # fmt: skip
        logits = decoder.advance(range(7), tokens[:, 10:11], [1] * 7)
        found.append(logits[row].tobytes())
    assert len(set(found)) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_numbers_are_those_of_a_full_pass(backend):
    model = build_model(backend, "window", "float32")
    texts = np.random.default_rng(2).integers(0, V, (3, 30))
    decoder = make_row_decoder(model, 3, 40, batch_invariant=True)
    for row in range(3):
        decoder.open_row(row, 40)
    decoder.advance([0, 1, 2], texts[:, :20], [20, 17, 1])
    for row, start in enumerate((20, 17, 1)):
        for at in range(start, 30):
            logits = decoder.advance([row], texts[row : row + 1, at : at + 1], [1])
        expected = model.logits(texts[row : row + 1])[0, -1]
        np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-4)


def test_a_backend_without_such_rows_reads_them_one_by_one():
    class Alone:
        spec = make_spec()

        def decoder(self, batch_size, capacity):
            raise AssertionError

        def row_decoder(self, rows, capacity):
            raise AssertionError

    assert isinstance(make_row_decoder(Alone(), 2, 8, batch_invariant=True), SeparateRows)


def test_what_is_read_together_is_single_tokens():
    reads = list_invariant_reads(np.arange(12).reshape(3, 4), [1, 4, 1], 3)
    told = [(which, part.tolist(), left) for which, part, left in reads]
    assert told == [([1], [[4, 5, 6]], [3]), ([1], [[7]], [1]), ([0, 2], [[0], [8]], [1, 1])]
    assert [pad_rows(n) for n in (1, 16, 17)] == [16, 16, 32]


def test_who_waited_longest_reads_next_and_none_reads_part_of_a_chunk():
    chunks = WholeChunks(make_spec(), 3, 8)
    assert chunks.choose_reads([0, 1, 2], [20, 3, 5]) == [(0, 8)]
    assert chunks.choose_reads([0, 1, 2], [12, 3, 5]) == [(1, 3), (2, 5)]
    assert chunks.choose_reads([0, 1], [12, 6]) == [(0, 8)]
    chunks.count_read(0, 0, 8)
    chunks.count_read(0, 8, 4)
    assert chunks.limit_shared(12, 0) == 8
    assert WholeChunks(make_spec("window"), 3, 8).limit_shared(24) == 0
