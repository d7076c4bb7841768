"""The noise scale of gradients: estimates without bias, averages, and what steps are left out."""

import numpy as np
import pytest

from hermes.interface import IGNORE, Batch, LossCounts, PreferencePairs
from hermes.numerics.gradient_noise import (
    GradientNoise,
    RankShare,
    estimate_noise,
    measure_share,
)
from hermes.recipe import Preference
from hermes_numpy.gradient_noise import estimate_gradient_noise

TRUE, DEVIATION = np.array([0.3, -0.1, 0.2, 0.0]), np.array([1.0, 0.5, 2.0, 0.1])
SIGNAL, NOISE = float(TRUE @ TRUE), float(DEVIATION @ DEVIATION)


def make_batch(counts, weights=None, pairs=None):
    """Micro-batches of one row each (or of pairs), with so many targets that count."""
    B = 1 if pairs is None else 4
    targets = np.full((len(counts), B, 8), IGNORE, np.int32)
    for a, count in enumerate(counts):
        targets[a, :, :count] = 1
    tokens, rows = np.zeros_like(targets), np.zeros(targets.shape[:2], np.uint32)
    return Batch(tokens, targets, rows, pairs=pairs, weights=weights)


def test_estimates_have_no_bias_whatever_the_sizes_and_weights():
    """Mean gradients of 20,000 batches, drawn from a known gradient and covariance."""
    draw = np.random.default_rng(0)
    for sizes in ((3, 5), (1, 9), (6, 2)):
        first, total = sizes[0], sum(sizes)
        terms = TRUE + draw.normal(size=(20_000, total, 4)) * DEVIATION
        weights = draw.choice([0.5, 1.0, 3.0], total)
        means = [
            (terms[:, :n] * weights[:n, None]).sum(1) / weights[:n].sum() for n in (first, total)
        ]
        inverses = [np.square(weights[:n]).sum() / weights[:n].sum() ** 2 for n in (first, total)]
        squares = [np.square(mean).sum(1).mean() for mean in means]
        signal, noise = estimate_noise(*squares, *inverses)
        assert signal == pytest.approx(SIGNAL, rel=0.15)
        assert noise == pytest.approx(NOISE, rel=0.05)
        one = estimate_gradient_noise(means[0][0], means[1][0], weights[:first], weights)
        ours = estimate_noise(*(np.square(mean[0]).sum() for mean in means), *inverses)
        assert ours == pytest.approx(one, rel=1e-12)


def test_sizes_are_those_of_what_the_loss_averages():
    plain = measure_share(make_batch([2, 6]), 0.25)
    assert plain == RankShare(1.0, 0.5, 1.0, 8.0)  # the mean's norm is 0.25 times 8 / 2
    weights = np.zeros((2, 1, 8), np.float32)
    weights[0, 0, :2], weights[1, 0, :6] = (1, 3), 2
    weighted = measure_share(make_batch([2, 6], weights), 0.25)
    assert weighted == RankShare((0.25 * 16 / 4) ** 2, 10 / 16, 1.0, 10 + 24.0)
    pairs = PreferencePairs(np.zeros((2, 4)), Preference())
    assert measure_share(make_batch([2, 6], pairs=pairs), 0.25) == RankShare(0.25, 0.5, 1.0, 4.0)


def test_a_step_without_two_batches_to_compare_has_no_estimate():
    assert measure_share(make_batch([2, 6]), None).estimate(1.0, 8.0) is None
    empty = measure_share(make_batch([0, 6]), 0.0)
    assert empty == RankShare(0.0, 0.0, 0.0, 6.0)
    assert empty.estimate(1.0, 6.0) is None
    assert measure_share(make_batch([6, 0]), 1.0).estimate(1.0, 6.0) is None
    average = GradientNoise().add((2.0, 3.0))
    assert average.add(None) == average


def test_averages_forget_with_0_99_and_begin_without_bias():
    noise = GradientNoise()
    assert noise.read() == {}
    steps = [(2.0, 30.0), (1.0, 10.0), (4.0, 50.0)]
    for step in steps:
        noise = noise.add(step)
    powers = np.array([0.99**2, 0.99, 1.0])
    signal, trace = (powers @ np.array(column) / powers.sum() for column in zip(*steps))  # noqa: B905
    assert noise.read() == pytest.approx(
        {"grad_noise_scale": trace / signal, "grad_signal": signal, "grad_noise": trace}
    )
    assert GradientNoise.from_numbers(noise.to_numbers()) == noise
    assert "grad_noise_scale" not in GradientNoise().add((-1.0, 2.0)).read()


def test_ranks_are_averaged_and_the_whole_step_is_of_all():
    one, other = (
        RankShare(2.0, 0.5, 1.0, 6.0),
        RankShare(4.0, 0.25, 1.0, 6.0),
    )
    both = RankShare(
        *(a + b for a, b in zip(vars(one).values(), vars(other).values(), strict=True))
    )
    counts = LossCounts(12, 12)
    assert both.estimate(1.0, counts.divisor) == estimate_noise(3.0, 1.0, 0.375, 1 / 12)
