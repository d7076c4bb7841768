"""An engine begins a step on the device before the host reads the tokens of the step before.

On a CPU the decoders are those that a GPU would have. Torch's copies to the host are those of a
played device, which makes none before somebody waits for it.
"""

import numpy as np
import pytest

from hermes.inference.batch_generation import run_requests
from hermes.inference.engine import Engine
from hermes.inference.request import Request
from hermes.inference.sampling import GREEDY, Sampling
from hermes.interface import ChoosesAhead, find_backend
from hermes_conformance.faults.played_copies import PlayedLane
from tests.backends.support import FLOAT32, TRAINING_BACKENDS, make_spec, make_weights

SAMPLED = Sampling(temperature=1.5, top_k=30)


class Watched:
    """A model whose rows are a GPU's, and notes when a step is begun and when it is read."""

    def __init__(self, model):
        self.model, self.spec, self.told = model, model.spec, []

    def row_decoder(self, rows, capacity):
        decoder = self.model.make_device_row_decoder(rows, capacity)
        assert isinstance(decoder, ChoosesAhead)
        begin, choose, advance = decoder.begin_choice, decoder.choose, decoder.advance
        told = self.told

        def note_and_begin(at, *rest):
            number = sum(one[0] == "begin" for one in told)
            told.append(("begin", tuple(at)))
            read = begin(at, *rest)
            return lambda: told.append(("read", number)) or read()

        decoder.begin_choice = note_and_begin
        decoder.choose = lambda at, *rest: told.append(("choose", tuple(at))) or choose(at, *rest)
        decoder.advance = lambda at, *rest: (
            told.append(("advance", tuple(at))) or advance(at, *rest)
        )
        return decoder


@pytest.fixture(params=TRAINING_BACKENDS)
def model(request, monkeypatch):
    pytest.importorskip(request.param)
    if request.param == "torch":
        from hermes_torch.host_copies import HostCopies

        plain = HostCopies.__init__

        def init(self, device, *, beside=False):
            plain(self, device, beside=beside)
            self._lane = PlayedLane()

        monkeypatch.setattr(HostCopies, "__init__", init)
    spec = make_spec()
    return find_backend(request.param).build(spec, make_weights(spec), FLOAT32)


def write(model, requests, **settings):
    done = run_requests(Engine(model, **{"rows": 4, **settings}), requests)
    return [(text.tokens, text.finish_reason) for text in done]


def test_a_step_is_begun_before_the_one_before_it_is_read(model):
    watched = Watched(model)
    engine = Engine(watched, rows=2)
    for request in (Request((1, 2, 3), 6, GREEDY), Request((2, 3, 4), 6, SAMPLED)):
        engine.submit(request)
    engine.run()
    told = [one for one in watched.told if one[0] in ("begin", "read")]
    # The first of 6 tokens is chosen with the prompt; of each that follows the host reads once.
    expected = [("begin", (0, 1)), ("begin", (0, 1)), ("read", 0)]
    for number in range(1, 5):
        expected += [("begin", (0, 1))] * (number < 4) + [("read", number)]
    assert told == expected
    reads = [one for one in told if one[0] == "read"]
    assert len(reads) == 5  # one a token, of both rows together


def test_texts_are_the_same_that_begin_and_end_by_themselves(model):
    """Of many lengths, with stop tokens, a context that is full, and few rows."""
    longest = model.spec.max_seq_len
    requests = []
    for n, sampling in enumerate([GREEDY, SAMPLED] * 8):
        more = {"stop_ids": (n % 5, 7)} if n % 3 else {}
        if n % 4 == 3:
            more["context_overflow"] = "slide"
        count = longest + 5 if n % 4 == 3 else 3 + 2 * n
        requests.append(Request(tuple(range(1, 4 + n % 6)), min(count, 40), sampling, n, **more))
    expected = write(model, requests, prefill_chunk=3)
    assert {reason for _, reason in expected} == {"stop", "length"}
    watched = Watched(model)
    assert write(watched, requests, prefill_chunk=3) == expected
    assert any(one[0] == "begin" for one in watched.told)


def test_who_needs_the_host_is_read_with_the_others(model):
    """And the steps are ahead again as soon as it is gone."""
    penalised = Sampling(repetition_penalty=1.3)
    requests = [
        Request((1, 2, 3), 16, GREEDY),
        Request((2, 3, 4), 4, penalised),
        Request((3, 4, 5), 12, SAMPLED),
    ]
    watched = Watched(model)
    assert write(watched, requests) == write(model, requests)
    kinds = [kind for kind, at in watched.told if kind != "read" and len(at) > 1]
    assert "begin" in kinds[kinds.index("advance") :]


def test_a_text_that_is_cancelled_leaves_the_others_as_they_are(model):
    requests = [Request((1, 2, 3), 12, GREEDY), Request((4, 5, 6), 12, GREEDY)]
    expected = write(model, requests)
    engine = Engine(Watched(model), rows=2)
    first, second = (engine.submit(one) for one in requests)
    for _ in range(5):
        engine.step()
    engine.cancel(second)
    third = engine.submit(requests[1])  # in the row that becomes free, behind a step of the old one
    engine.run()
    assert (first.tokens, third.tokens) == (expected[0][0], expected[1][0])
    assert second.finish_reason == "cancelled"


def test_a_row_whose_text_has_ended_is_what_it_says(model):
    """A step too many has read the token that ended the text; the row that is kept has it."""
    ((tokens, _),) = write(model, [Request((1, 2, 3, 4, 5), 8, SAMPLED)])
    stop = next(one for at, one in enumerate(tokens) if at > 1 and one not in tokens[:at])
    engine = Engine(Watched(model), rows=2)
    (text,) = run_requests(engine, [Request((1, 2, 3, 4, 5), 8, SAMPLED, stop_ids=(stop,))])
    assert text.finish_reason == "stop"
    state = engine.copy_row([1, 2, 3, 4, 5, *tokens])
    assert state.tokens == (1, 2, 3, 4, 5, *tokens[: tokens.index(stop) + 1])
    assert {len(one[0]) for one in state.tensors.values()} == {len(state.tokens)}
    other = Engine(model, rows=2)
    assert other.restore_row(state)
    plain = Engine(model, rows=2)
    asked = Request((*state.tokens, 9), 6, GREEDY)
    again, expected = (run_requests(one, [asked])[0] for one in (other, plain))
    assert again.num_reused == len(state.tokens)
    assert again.tokens == expected.tokens


def test_a_device_that_fails_ends_its_texts_and_serves_the_next(model):
    watched = Watched(model)
    engine = Engine(watched, rows=2)
    text = engine.submit(Request((1, 2, 3), 12, GREEDY))
    for _ in range(3):
        engine.step()
    begun = engine._begun

    def fail():
        raise RuntimeError("the device is gone")

    object.__setattr__(begun, "read", fail)
    with pytest.raises(RuntimeError, match="is gone"):
        engine.step()
    assert text.finish_reason == "error"
    (again,) = run_requests(engine, [Request((1, 2, 3), 12, GREEDY)])
    assert again.tokens == write(model, [Request((1, 2, 3), 12, GREEDY)])[0][0]
    assert np.isfinite(again.tokens).all()
