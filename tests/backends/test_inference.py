"""Evaluation and decoding, on each backend."""

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.interface import Options, find_backend
from hermes.spec import AttentionSpec
from tests.backends.support import (
    EXACT,
    TRAINING_BACKENDS,
    make_batch,
    make_learner,
    make_spec,
    make_weights,
)


@pytest.mark.parametrize("backend", ["numpy", *TRAINING_BACKENDS])
def test_a_window_of_w_attends_to_its_own_token_and_w_minus_1_before_it(backend):
    """Changing the key W places back must change nothing; the one W - 1 back must."""
    W, T = 3, 8
    model = make_spec(layers=1, attention=AttentionSpec(4, 2, window_size=W))
    built = find_backend(backend).build(model, make_weights(model), EXACT)
    tokens = np.arange(T, dtype=np.int32)[None]
    last = built.logits(tokens)[0, -1]
    for back in range(1, T):
        changed = tokens.copy()
        changed[0, T - 1 - back] = 30
        same = np.array_equal(built.logits(changed)[0, -1], last)
        assert same == (back >= W), back


@pytest.mark.parametrize("backend", ["numpy", *TRAINING_BACKENDS])
def test_ids_and_lengths_out_of_range_are_refused_before_the_device_sees_them(backend):
    built = find_backend(backend).build(make_spec(), make_weights(make_spec()), EXACT)
    with pytest.raises(HermesError, match=r"^token id 37 is outside the vocabulary of 37$"):
        built.logits(np.array([[1, 37]]))
    with pytest.raises(HermesError, match=r"^token id -1 is outside the vocabulary of 37$"):
        built.logits(np.array([[1, -1]]))
    long = np.zeros((1, 33), np.int64)
    with pytest.raises(
        HermesError, match=r"^a sequence of 33 tokens is longer than max_seq_len 32"
    ):
        built.logits(long)
    decoder = built.decoder(1, 4)
    decoder.advance(long[:, :3])
    with pytest.raises(HermesError, match=r"^a decoder of 1 row and 4 tokens cannot hold 1 row "):
        decoder.advance(long[:, :2])


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_built_as_trained_scores_as_its_learner_does_to_the_bit(backend, precision):
    """The reference of preferences is such a model's, and the policy a learner."""
    model = make_spec(tied=True)
    options = Options(device="cpu", precision=precision, as_trained=True)
    built = find_backend(backend).build(model, make_weights(model), options)
    trained = make_learner(backend, model, options=options)
    tokens = make_batch(B=6, T=24).tokens[0]
    sums = np.asarray(trained.row_logprobs(tokens, tokens))
    np.testing.assert_array_equal(built.row_logprobs(tokens, tokens), sums)
    built.decoder(1, 8)
    np.testing.assert_array_equal(built.row_logprobs(tokens, tokens), sums)
