"""The noise that rounding brings, as the oracle estimates it."""

import numpy as np
import pytest

from hermes.interface import TrainState
from hermes.training.schedule import compute_lr
from hermes_conformance.laws import training_cases
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.subject import make_initial_state
from hermes_conformance.oracle.rounding_noise import DRAWS, estimate_logit_noise, kl_divergence
from hermes_conformance.oracle.tracing_arrays import UNIT
from hermes_conformance.oracle.trajectory import copy_state, train
from tests.conformance.support import find_case


def test_the_noise_grows_with_the_unit_roundoff(backends):
    case, oracle = find_case("default/hot"), backends("torch").oracle
    short, long = (
        estimate_logit_noise(oracle, case, precision) for precision in ("bfloat16", "float32")
    )
    ratio = (short.sigma / long.sigma).mean() / (UNIT["bfloat16"] / UNIT["float32"])
    assert 0.3 < ratio < 10
    assert DRAWS == 16
    assert kl_divergence(short.logits, short.logits).max() == 0


def train_with_rounding(subject, case, rng):
    """Gradient norms of the case's float64 run, its weights rounded at random at each step."""
    state, norms = make_initial_state(case), []
    for step in range(training_cases.LONG_STEPS):
        noise = {
            n: 1 + UNIT["float32"] * rng.standard_normal(np.shape(state.params[n]))
            for n in state.params
        }
        params = {name: state.params[name] * noise[name] for name in state.params}
        start = TrainState(params, state.exp_avg, state.exp_avg_sq, step)
        learner = subject.backend.learner(case.spec, start, case.recipe, subject.make_options())
        lr = compute_lr(case.recipe, step, training_cases.LONG_STEPS)
        norms.append(float(learner.step(case.make_batch(step), lr).grad_norm))
        state = copy_state(learner.state())
    return np.array(norms)


@pytest.mark.long
@pytest.mark.parametrize("name", ["train.dropout/fresh", "train.gpt2/fresh"])
def test_float32_runs_stay_where_float32_can_be_judged(backends, name):
    """12 sigma of the noise of float32 weights alone are below the bound of the gradient norm."""
    subject = backends("torch").subject
    case = next(case for case in training_cases.make_cases() if case.name == name)
    exact = train(subject, case, training_cases.LONG_STEPS).norms
    seeds = range(4)
    draws = [
        train_with_rounding(subject, case, np.random.default_rng(seed)) / exact - 1
        for seed in seeds
    ]
    sigma = np.sqrt(np.mean(np.square(draws), axis=0))
    assert 12 * sigma.max() < tolerance.NORM_32.limit
