"""Beam search: greedy with one beam, exhaustive with as many as there are tokens."""

from itertools import product

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.inference import beam_search
from hermes.inference.beam_search import search_beams
from hermes.inference.decoding import collect_completion, generate_tokens
from hermes.inference.sampling import GREEDY
from tests.inference.support import ATTENTIONS, V, make_model
from tests.inference.test_engine import Forward

BACKENDS = ["torch", "mlx"]
PROMPT = (1, 5, 9, 3)


def score_text(model, text):
    """A text's log-probability after the prompt."""
    logits = model.logits(np.array([[*PROMPT, *text[:-1]]]))[0].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logprobs[len(PROMPT) - 1 + k, token] for k, token in enumerate(text))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_beam_is_greedy(backend):
    model = make_model(backend)
    done = collect_completion(generate_tokens(model, PROMPT, max_tokens=15, sampling=GREEDY))
    (beam,) = search_beams(model, PROMPT, num_beams=1, max_tokens=15)
    assert (beam.tokens, beam.finish_reason) == (done.tokens, "length")


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_beams_have_the_log_probabilities_of_their_texts(backend, kind):
    model = make_model(backend, kind)
    beams = search_beams(model, PROMPT, num_beams=4, max_tokens=12)
    assert len({beam.tokens for beam in beams}) == 4
    assert [beam.score for beam in beams] == sorted((beam.score for beam in beams), reverse=True)
    for beam in beams:
        assert beam.logprob == pytest.approx(score_text(model, beam.tokens), abs=1e-4)
        assert beam.score == pytest.approx(beam.logprob / 12)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_a_long_prompt_is_read_in_chunks(backend, monkeypatch):
    model, read = make_model(backend), []
    whole = search_beams(model, PROMPT, num_beams=3, max_tokens=5)
    monkeypatch.setattr(beam_search, "choose_prefill_chunk", lambda model: 3)
    make = beam_search.make_row_decoder

    def watch(*arguments):
        decoder = make(*arguments)
        advance = decoder.advance
        decoder.advance = lambda rows, *given: (
            read.append(given[0].shape[1]) or advance(rows, *given)
        )
        return decoder

    monkeypatch.setattr(beam_search, "make_row_decoder", watch)
    beams = search_beams(model, PROMPT, num_beams=3, max_tokens=5)
    assert read[:2] == [3, 1]
    assert [beam.tokens for beam in beams] == [beam.tokens for beam in whole]


def test_as_many_beams_as_tokens_find_the_best_of_all_texts():
    model = make_model("torch")
    texts = np.array([[*PROMPT, *text] for text in product(range(V), repeat=2)])
    logits = model.logits(texts).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows = np.arange(len(texts))
    totals = sum(logprobs[rows, n - 1, texts[:, n]] for n in (len(PROMPT), len(PROMPT) + 1))
    best = [tuple(texts[at, -2:].tolist()) for at in np.argsort(-totals)[:5]]
    found = search_beams(model, PROMPT, num_beams=V, max_tokens=2)
    assert [beam.tokens for beam in found[:5]] == best


def test_more_beams_find_no_worse_a_text():
    model = make_model("torch")
    scores = [search_beams(model, PROMPT, num_beams=n, max_tokens=6)[0].logprob for n in (1, 4, 37)]
    assert scores[0] <= scores[2]
    assert scores[1] <= scores[2] + 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_text_that_ends_competes_by_its_length(backend):
    model = make_model(backend)
    first = search_beams(model, PROMPT, num_beams=3, max_tokens=6)[0].tokens
    ending = first[2]
    found = search_beams(model, PROMPT, num_beams=3, max_tokens=6, stop={ending})
    ended = [beam for beam in found if beam.finish_reason == "stop"]
    assert ended
    for beam in ended:
        assert ending not in beam.tokens
        total = score_text(model, (*beam.tokens, ending))
        assert beam.logprob == pytest.approx(total, abs=1e-4)
        assert beam.score == pytest.approx(total / (len(beam.tokens) + 1), abs=1e-4)
    long = search_beams(model, PROMPT, num_beams=3, max_tokens=6, stop={ending}, length_penalty=9.0)
    assert len(long[0].tokens) >= len(found[0].tokens)


def test_a_backend_without_rows_finds_the_same():
    model = make_model("torch")
    alone = Forward(model)
    expected = search_beams(model, PROMPT, num_beams=3, max_tokens=5)
    found = search_beams(alone, PROMPT, num_beams=3, max_tokens=5)
    assert [beam.tokens for beam in found] == [beam.tokens for beam in expected]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1, got 0"),
        ({"num_beams": 2.5}, "num_beams must be a whole number, got 2.5"),
        ({"length_penalty": 1e5}, "length_penalty must be from -10 to 10, got 100000"),
        ({"length_penalty": float("nan")}, "length_penalty must be from -10 to 10, got nan"),
        ({"length_penalty": "1"}, "length_penalty must be a number, got '1'"),
    ],
)
def test_a_search_that_cannot_be_is_refused(asked, why):
    with pytest.raises(HermesError, match=why):
        search_beams(make_model("torch"), PROMPT, **{"num_beams": 2, "max_tokens": 5, **asked})
