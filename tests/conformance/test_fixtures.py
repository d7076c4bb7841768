"""The fixtures are what their laws take them for."""

import numpy as np
import pytest

from hermes.interface import TrainState
from hermes.training.schedule import compute_lr
from hermes_conformance.laws import training
from hermes_conformance.laws.cases import objectives
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.subject import start
from hermes_conformance.oracle.tracing_arrays import TINY, UNIT, dual
from hermes_conformance.oracle.trajectory import kept, train
from hermes_numpy.backend import BACKEND as ORACLE
from hermes_numpy.loss import log_sigmoid

UNDECIDED = [case for case in objectives() if case.name.startswith("undecided.")]


@pytest.mark.parametrize("case", UNDECIDED, ids=lambda case: case.name)
def test_both_sides_of_an_undecided_pair_are_equally_likely_to_the_last_bit(case):
    model, batch = ORACLE.build(case.spec, case.weights), case.batch
    for a in range(case.A):
        sums = model.row_logprobs(batch.tokens[a], batch.targets[a])
        apart = sums - batch.pairs.reference[a]
        assert np.array_equal(apart[: case.B // 2], apart[case.B // 2 :])
        assert not np.array_equal(batch.tokens[a, : case.B // 2], batch.tokens[a, case.B // 2 :])


@pytest.mark.parametrize("toward", [1.0, -1.0])
def test_the_oracle_knows_the_slope_of_log_sigma_at_zero(toward):
    """In both directions: a complex step along which a kink at 0 would show."""
    got = np.asarray(log_sigmoid(dual(np.zeros(1), np.array([toward]))))
    assert got.imag / TINY == pytest.approx(toward / 2, rel=1e-15)
    assert got.real == pytest.approx(-np.log(2), rel=1e-15)


def shaken(side, case, rng):
    """Gradient norms of the case's float64 run, each update's weights rounded at random."""
    state, norms = start(case), []
    for step in range(training.LONG_STEPS):
        noise = {
            n: 1 + UNIT["float32"] * rng.standard_normal(np.shape(state.params[n]))
            for n in state.params
        }
        params = {name: state.params[name] * noise[name] for name in state.params}
        begin = TrainState(params, state.exp_avg, state.exp_avg_sq, step)
        learner = side.backend.learner(case.spec, begin, case.recipe, side.options())
        lr = compute_lr(case.recipe, step, training.LONG_STEPS)
        norms.append(float(learner.step(case.update(step), lr).grad_norm))
        state = kept(learner.state())
    return np.array(norms)


@pytest.mark.long
@pytest.mark.parametrize("name", ["train.dropout/fresh", "train.gpt2/fresh"])
def test_float32_runs_pass_no_place_where_float32_cannot_be_judged(sides, name):
    """12 sigma of the noise that float32 weights alone bring stay below the bound of the norm."""
    side = sides("torch").subject
    case = next(case for case in training.cases() if case.name == name)
    true = train(side, case, training.LONG_STEPS).norms
    draws = [shaken(side, case, np.random.default_rng(seed)) / true - 1 for seed in range(4)]
    sigma = np.sqrt(np.mean(np.square(draws), axis=0))
    assert 12 * sigma.max() < tolerance.NORM_32.limit
