"""Decoding: the end of a text, the cache, seeds, limits."""

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.inference.decoding import Completion, collect_completion, generate_tokens
from hermes.inference.sampling import GREEDY, Sampling
from hermes.interface import find_backend
from hermes.numerics.params import init_weights
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

SPEC = ModelSpec(
    blocks=(BlockSpec(AttentionSpec(num_heads=2), FfnSpec(hidden_dim=32)),),
    vocab_size=23,
    max_seq_len=24,
    hidden_size=16,
    num_layers=2,
)


class Counter:
    """A model whose next token is the last one plus one; counts what its decoders read."""

    spec = SPEC

    def __init__(self):
        self.read = []

    def decoder(self, batch_size, capacity):
        assert batch_size == 1
        self.capacity = capacity
        return self

    def advance(self, tokens):
        self.read.append(tokens.shape[1])
        assert sum(self.read) <= self.capacity
        logits = np.zeros((1, 23), np.float32)
        logits[0, (tokens[0, -1] + 1) % 23] = 9
        return logits


@pytest.fixture(scope="module")
def model():
    """Loud weights, so that the text depends on all that was read."""
    loud = {name: array * 12 if array.ndim > 1 else array for name, array in
            init_weights(SPEC, 3).items()}  # fmt: skip
    return find_backend("numpy").build(SPEC, loud)


def run(model, prompt, **options):
    options = {"max_tokens": 8, "sampling": Sampling(temperature=1.0), **options}
    return collect_completion(generate_tokens(model, prompt, **options))


def test_greedy_counts_on():
    assert run(Counter(), [4], sampling=GREEDY) == Completion((5, 6, 7, 8, 9, 10, 11, 12), "length")


def test_a_stop_token_ends_the_text_and_is_not_part_of_it():
    assert run(Counter(), [4], sampling=GREEDY, stop={7}) == Completion((5, 6), "stop")


def test_the_prompt_is_read_once_and_each_token_once_after_it():
    counter = Counter()
    run(counter, [1, 2, 3], sampling=GREEDY, max_tokens=4)
    assert counter.read == [3, 1, 1, 1]


def test_a_text_ends_where_the_next_token_would_need_more_than_max_seq_len():
    counter = Counter()
    done = run(counter, [0] * 20, sampling=GREEDY, max_tokens=99)
    assert len(done.tokens) == 5
    assert done.finish_reason == "length"
    assert sum(counter.read) == 24


def test_a_prompt_as_long_as_the_model_still_gets_its_next_token():
    assert run(Counter(), [0] * 24, sampling=GREEDY).tokens == (1,)


def test_a_prompt_longer_than_the_model_is_refused_with_both_numbers():
    with pytest.raises(HermesError) as error:
        run(Counter(), [0] * 25)
    assert str(error.value) == (
        "the prompt has 25 tokens, more than the model's max_seq_len 24; shorten it"
    )


def test_an_empty_prompt_is_refused():
    with pytest.raises(HermesError, match="the prompt is empty"):
        run(Counter(), [])


def test_the_cache_changes_nothing(model):
    """Each greedy token is the best of the whole text read afresh."""
    done = run(model, [3, 1, 4], sampling=GREEDY)
    text = [3, 1, 4]
    for token in done.tokens:
        assert token == int(model.logits(np.array([text]))[0, -1].argmax())
        text.append(token)


def test_the_seed_decides_the_text(model):
    texts = {seed: run(model, [3, 1], seed=seed) for seed in range(6)}
    assert texts[2] == run(model, [3, 1], seed=2)
    assert len(set(texts.values())) > 1


def test_completions_of_one_seed_differ(model):
    assert len({run(model, [3, 1], seed=5, completion=c) for c in range(6)}) > 1


def test_a_text_goes_on_the_same_however_it_is_cut_into_calls(model):
    whole = run(model, [3, 1, 4], max_tokens=10, seed=1).tokens
    first = run(model, [3, 1, 4], max_tokens=4, seed=1).tokens
    rest = run(model, [3, 1, 4, *first], max_tokens=6, seed=1).tokens
    assert first + rest == whole


def test_rows_that_no_token_uses_are_never_chosen(model):
    done = run(model, [3], vocab_size=5, max_tokens=20, sampling=Sampling(temperature=9.0))
    assert max(done.tokens) < 5


def test_it_speaks_before_it_is_done():
    tokens = generate_tokens(Counter(), [0], max_tokens=9, sampling=GREEDY)
    assert next(tokens) == 1
