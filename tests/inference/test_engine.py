"""The engine: texts as if alone, whoever shares the batch; order, bounds, ends."""

import gc

import numpy as np
import pytest

from hermes.errors import HermesError, NonFinite
from hermes.inference.batch_generation import run_requests
from hermes.inference.decoding import collect_completion, generate_tokens
from hermes.inference.engine import Engine, QueueIsFull
from hermes.inference.request import Request
from hermes.inference.row_decoding import make_row_decoder
from hermes.inference.sampling import GREEDY, Sampling
from hermes.interface import DecodesRows
from tests.inference.support import ATTENTIONS, V, make_model

BACKENDS = ["torch", "mlx"]
WILD = Sampling(temperature=1.3, top_k=20, min_p=0.01, repetition_penalty=1.1)


def make_requests(count, sampling=None, longest=20):
    """Prompts of different lengths with limits, seeds and samplings of their own."""
    random = np.random.default_rng(count)
    found = []
    for index in range(count):
        prompt = random.integers(0, V, random.integers(1, longest)).tolist()
        how = sampling or (GREEDY, WILD, Sampling(temperature=0.9, top_p=0.8))[index % 3]
        limit = int(random.integers(1, 18))
        found.append(Request(tuple(prompt), limit, how, seed=index, stop_ids=(2,)))
    return found


def complete_alone(model, request):
    """The tokens and the finish reason of a request by itself."""
    done = collect_completion(
        generate_tokens(
            model,
            request.prompt,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            seed=request.seed,
            stop=request.stop_ids,
            context_overflow=request.context_overflow,
        )
    )
    return done.tokens, done.finish_reason


def tell(generation):
    return generation.tokens, generation.finish_reason


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("backend", [*BACKENDS, "numpy"])
def test_a_text_is_what_it_is_alone(backend, kind):
    model = make_model(backend, kind)
    requests = make_requests(14)
    engine = Engine(model, rows=4, prefill_chunk=7)
    generations = run_requests(engine, requests)
    assert [tell(one) for one in generations] == [complete_alone(model, r) for r in requests]
    assert {one.finish_reason for one in generations} == {"stop", "length"}


def test_both_backends_say_the_same():
    found = [run_requests(Engine(make_model(b), rows=3), make_requests(9)) for b in BACKENDS]
    assert [tell(one) for one in found[0]] == [tell(one) for one in found[1]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_requests_enter_while_others_run(backend):
    model = make_model(backend)
    requests = make_requests(10, GREEDY)
    engine = Engine(model, rows=3, prefill_chunk=5)
    waiting, generations = list(requests), []
    while waiting or engine.num_running or engine.num_waiting:
        if waiting:
            generations.append(engine.submit(waiting.pop(0)))
        engine.step()
        engine.step()
        assert engine.num_running <= 3
    assert [tell(one) for one in generations] == [complete_alone(model, r) for r in requests]


@pytest.mark.parametrize(("max_queue", "expected"), [(9, [12, 4, 4, 4]), (3, [9, 3, 3, 4])])
def test_requests_that_are_there_begin_together(max_queue, expected):
    model = make_model("torch")
    requests = [Request((k, 8, 9), 4, GREEDY) for k in range(6)]
    engine = Engine(model, rows=4, max_queue=max_queue)
    read = count_reads(engine)
    generations = run_requests(engine, requests)
    assert [tell(one) for one in generations] == [complete_alone(model, r) for r in requests]
    assert read[:4] == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_of_rows_are_those_of_a_full_pass(backend):
    model = make_model(backend)
    random = np.random.default_rng(1)
    texts = [random.integers(0, V, n) for n in (3, 17, 9)]
    decoder = make_row_decoder(model, 3, 20)
    tokens = np.zeros((3, 17), int)
    for row, text in enumerate(texts):
        decoder.open_row(row, 20)
        tokens[row, : len(text)] = text
    logits = decoder.advance([0, 1, 2], tokens, [len(text) for text in texts])
    for row, text in enumerate(texts):
        expected = model.logits(text[None])[0, -1]
        np.testing.assert_allclose(logits[row], expected, rtol=1e-5, atol=1e-5)


def count_reads(engine):
    """Count the tokens that an engine's decoder reads, without padding, into a list."""
    read, advance = [], engine._decoder.advance

    def count(rows, tokens, counts):
        read.append(sum(counts))
        return advance(rows, tokens, counts)

    engine._decoder.advance = count
    return read


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prompt_that_many_share_is_read_once(backend):
    model = make_model(backend)
    shared = tuple(range(5, 25))
    requests = [Request((*shared, k), 3, WILD, seed=k) for k in range(6)]
    engine = Engine(model, rows=6, prefill_chunk=8)
    read = count_reads(engine)
    generations = run_requests(engine, requests)
    assert [tell(one) for one in generations] == [complete_alone(model, r) for r in requests]
    # Each text reads its own last token of the prompt, and its own tokens but the last.
    own = sum(1 + len(one.tokens) - 1 for one in generations)
    assert sum(read) == len(shared) + own
    assert [one.num_reused for one in generations] == [0] + [20] * 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_conversation_reads_only_what_is_new(backend):
    model = make_model(backend)
    engine = Engine(model, rows=2)
    first = engine.submit(Request(tuple(range(12)), 5, GREEDY))
    engine.run()
    prompt = (*range(12), *first.tokens, 7, 8)
    second = engine.submit(Request(prompt, 4, GREEDY))
    engine.run()
    assert second.num_reused == 12 + len(first.tokens) - 1
    assert tell(second) == complete_alone(model, second.request)


@pytest.mark.parametrize("kind", ["rope", "window", "learned"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_context_that_slides_goes_on_as_it_does_alone(backend, kind):
    model = make_model(backend, kind, 16)
    requests = [
        Request(tuple(range(4, 4 + n)), 40, GREEDY, context_overflow="slide") for n in (2, 14, 30)
    ]
    generations = run_requests(Engine(model, rows=2), requests)
    assert [tell(one) for one in generations] == [complete_alone(model, r) for r in requests]
    assert [len(one.tokens) for one in generations] == [40] * 3


def test_a_context_that_is_full_ends_the_text():
    done = run_requests(Engine(make_model("torch", max_seq_len=16)), [Request((1,) * 10, 99)])[0]
    assert (len(done.tokens), done.finish_reason, done.context_is_full) == (7, "length", True)


def test_a_cancelled_text_frees_its_row_and_changes_no_other():
    model = make_model("torch")
    requests = make_requests(5, GREEDY)
    requests[0] = Request((1, 3), 40, GREEDY)
    engine = Engine(model, rows=2)
    generations = [engine.submit(request) for request in requests]
    for _ in range(3):
        engine.step()
    engine.cancel(generations[0])
    engine.cancel(generations[4])  # waits still
    engine.run()
    assert [generations[k].finish_reason for k in (0, 4)] == ["cancelled"] * 2
    assert 0 < len(generations[0].tokens) < 40
    alone = [complete_alone(model, request) for request in requests[1:4]]
    assert [tell(one) for one in generations[1:4]] == alone
    engine.cancel(generations[1])
    assert not engine.step()
    assert generations[1].finish_reason != "cancelled"


def test_the_queue_is_bounded_and_first_come_first_served():
    engine = Engine(make_model("torch"), rows=1, max_queue=2)
    begun = []
    request = Request((1,), 2, GREEDY)
    for index in range(2):
        engine.submit(request, lambda one, piece, index=index: begun.append(index))
    with pytest.raises(QueueIsFull, match="2 requests wait already"):
        engine.submit(request)
    engine.run()
    assert begun == sorted(begun)
    engine.submit(request)


def test_a_queue_of_one_says_so():
    engine = Engine(make_model("torch"), rows=1, max_queue=1)
    engine.submit(Request((1,), 2, GREEDY))
    with pytest.raises(QueueIsFull, match=r"^1 request waits already; try"):
        engine.submit(Request((1,), 2, GREEDY))


def test_more_rows_than_a_machine_keeps_are_refused_before_their_cache_is_made():
    """What was kept of each of 10^9 took all memory, and the process was killed."""
    with pytest.raises(HermesError, match=r"rows must be at most 65,536, got 1,000,000,000$"):
        Engine(make_model("torch"), rows=10**9)


def test_a_long_prompt_holds_up_no_one_for_longer_than_a_chunk():
    engine = Engine(make_model("torch"), rows=2, prefill_chunk=4)
    writer = engine.submit(Request((1,), 20, GREEDY))
    engine.step()
    engine.submit(Request(tuple(range(30)), 1, GREEDY))
    for _ in range(6):
        before = len(writer.tokens)
        engine.step()
        assert len(writer.tokens) == before + 1


def test_what_is_asked_wrongly_is_refused_at_once():
    engine = Engine(make_model("torch"))
    for request, message in [
        (Request((), 3), "the prompt is empty"),
        (Request((1,), 0), "max_tokens must be at least 1, got 0"),
        (Request((1,) * 49), "the prompt has 49 tokens, more than the model's max_seq_len 48"),
        (Request((1,), context_overflow="x"), "context_overflow is 'x'; it must be one of"),
        (Request((1,), stop=("a",)), "stop strings need a tokenizer"),
        (Request((1,), logprobs=1000), "logprobs must be from 0 to 100, got 1000"),
    ]:
        with pytest.raises(HermesError, match=message):
            engine.submit(request)
    assert not engine.step()


def test_a_text_that_cannot_go_on_ends_alone():
    """Every token of one request is banned, so its first choice fails; the other's does not."""
    model = make_model("torch")
    everything = Sampling(banned=tuple((token,) for token in range(V)))
    good = Request((1, 2), 4, GREEDY)
    bad, fine = run_requests(Engine(model), [Request((1,), 4, everything), good])
    assert bad.finish_reason == "error"
    assert "no token may come next" in str(bad.error)
    assert tell(fine) == complete_alone(model, good)


class Forward:
    """A backend's model without a row decoder of its own."""

    def __init__(self, model):
        self.spec, self.decoder = model.spec, model.decoder


def test_a_backend_without_rows_is_served_row_by_row():
    model = make_model("torch")
    requests = make_requests(6)
    alone = Forward(model)
    assert not isinstance(alone, DecodesRows)
    found = run_requests(Engine(alone, rows=3), requests)
    assert [tell(one) for one in found] == [complete_alone(model, r) for r in requests]


def test_log_probabilities_are_the_models_own():
    model = make_model("torch")
    done = run_requests(Engine(model), [Request((1, 2, 3), 4, WILD, logprobs=3)])[0]
    text = np.array([[1, 2, 3, *done.tokens]])
    logits = model.logits(text)[0].astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for index, choice in enumerate(done.choices):
        row = logprobs[2 + index]
        assert choice.logprob == pytest.approx(row[choice.token], abs=1e-5)
        assert [token for token, _ in choice.top] == np.argsort(-row)[:3].tolist()


def test_broken_weights_end_a_text_with_what_is_wrong():
    class Broken(Forward):
        def __init__(self, model):
            super().__init__(model)
            self.decoder = lambda rows, capacity: self

        def advance(self, tokens):
            return np.full((1, V), np.nan)

    done = run_requests(Engine(Broken(make_model("torch"))), [Request((1,))])[0]
    assert isinstance(done.error, NonFinite)


def test_a_backend_that_fails_ends_all_running_texts_and_serves_the_next():
    model = make_model("torch")
    engine = Engine(model, rows=2)
    generation = engine.submit(Request((1, 2), 9, GREEDY))
    engine.step()
    advance = engine._decoder.advance

    def fail(*arguments):
        raise RuntimeError("the kernel broke")

    engine._decoder.advance = fail
    with pytest.raises(RuntimeError, match="the kernel broke"):
        engine.step()
    assert str(generation.error) == "decoding: the kernel broke"
    engine._decoder.advance = advance
    again = engine.submit(Request((1, 2), 9, GREEDY))
    engine.run()
    assert tell(again) == complete_alone(model, again.request)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_grows_over_a_thousand_requests(backend):
    engine = Engine(make_model(backend), rows=8, prefill_chunk=32)
    random = np.random.default_rng(0)
    counts = []
    for _ in range(10):
        for index in range(100):
            prompt = tuple(random.integers(0, V, random.integers(1, 20)).tolist())
            engine.submit(Request(prompt, int(random.integers(1, 9)), WILD, seed=index))
        engine.run()
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert max(counts[3:]) - counts[2] < 200, counts
    assert engine.num_running == engine.num_waiting == 0
