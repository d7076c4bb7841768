"""Ropes whose tables follow from the length of a row or the capacity of a KV cache."""

import numpy as np
import pytest

from hermes.interface import find_backend
from hermes.spec import AttentionSpec, DynamicScaling, LongRopeScaling, Rope
from tests.backends.support import EXACT, make_batch, make_learner, make_spec, make_weights

LENGTHS = (3, 8, *range(9, 21), 8, 3)  # more of them than a rope keeps tables
SCALINGS = {
    "dynamic": DynamicScaling(4.0, 8),
    "longrope": LongRopeScaling((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0), 8),
}


def make_scaled_spec(name):
    rope = Rope(scaling=SCALINGS[name])
    return make_spec(attention=AttentionSpec(2, head_dim=8, position_encoding=rope))


def draw_tokens(spec, length):
    return np.random.default_rng(length).integers(0, spec.vocab_size, (2, length)).astype(np.int32)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_rows_of_any_length_and_caches_of_any_capacity_are_the_oracles(backend, name):
    spec = make_scaled_spec(name)
    weights = make_weights(spec)
    ours, oracle = (find_backend(b).build(spec, weights, EXACT) for b in (backend, "numpy"))
    for length in LENGTHS:
        tokens = draw_tokens(spec, length)
        assert abs(ours.logits(tokens) - oracle.logits(tokens)).max() < 1e-11
    tokens = draw_tokens(spec, 6)
    pairs = [[model.decoder(2, capacity) for model in (ours, oracle)] for capacity in LENGTHS[2:14]]
    for part in (tokens[:, :4], tokens[:, 4:]):  # all caches advance in turn
        for one, other in pairs:
            assert abs(one.advance(part) - other.advance(part)).max() < 1e-11


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_cache_of_short_capacity_has_other_logits_than_one_of_long(backend, name):
    spec = make_scaled_spec(name)
    model = find_backend(backend).build(spec, make_weights(spec), EXACT)
    tokens = draw_tokens(spec, 6)
    short, same, long = (model.decoder(2, n).advance(tokens) for n in (6, 8, 9))
    assert (short == same).all()
    assert abs(short - long).max() > 1e-3


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_learner_may_decode_before_it_trains_on_rows_of_that_length(backend):
    spec = make_scaled_spec("dynamic")
    batch = make_batch()
    expected = make_learner(backend, spec).grads(batch)[0]
    learner = make_learner(backend, spec)
    learner.decoder(2, batch.tokens.shape[-1]).advance(draw_tokens(spec, 3))
    assert learner.grads(batch)[0] == expected
