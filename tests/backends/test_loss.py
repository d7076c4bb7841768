"""The losses of pairs against values worked by hand, on all three backends."""

import math

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.recipe import Preference

# One pair: the chosen has 4 tokens and log-probability -8, the rejected 2 and -10; the reference
# gives -9 and -10. So h = (-8 + 9) - (-10 + 10) = 1; means -2 and -5.
SUMS, COUNTS, REFERENCE = [-8.0, -10.0], [4, 2], [-9.0, -10.0]


def sigma(x):
    return 1 / (1 + math.exp(-x))


def odds(m):
    return m - math.log(1 - math.exp(m))


BY_HAND = {
    "dpo": (Preference(beta=0.5), -math.log(sigma(0.5))),
    "cdpo": (
        Preference(beta=0.5, label_smoothing=0.1),
        -0.9 * math.log(sigma(0.5)) - 0.1 * math.log(sigma(-0.5)),
    ),
    "ipo": (Preference("ipo", beta=0.25), (1 - 2) ** 2),
    "hinge": (Preference("hinge", beta=0.3), 0.7),
    "orpo": (
        Preference("orpo", beta=0.2),
        2 - 0.2 * math.log(sigma(odds(-2) - odds(-5))),
    ),
    "simpo": (Preference("simpo", beta=2.0, gamma=1.0), -math.log(sigma(2 * (-2 + 5) - 1))),
    "dpo with sft": (
        Preference(beta=0.5, sft_weight=0.25),
        -math.log(sigma(0.5)) + 0.25 * 2,
    ),
}


def compute_losses(backend, rule, sums=SUMS, counts=COUNTS, reference=REFERENCE):
    match backend:
        case "numpy":
            from hermes_numpy.loss import pair_losses

            arrays = map(np.array, (sums, counts, reference))
            return pair_losses(*arrays, rule)
        case "torch":
            import torch

            from hermes_torch.loss import pair_losses

            s, r = (torch.tensor(x, dtype=torch.float64) for x in (sums, reference))
            return pair_losses(s, torch.tensor(counts), r, rule).numpy()
        case "mlx":
            import mlx.core as mx

            import hermes_mlx  # noqa: F401  before mlx.core, for its BLAS
            from hermes_mlx.loss import pair_losses

            with mx.stream(mx.cpu):
                s, r = (mx.array(x, mx.float64) for x in (sums, reference))
                return np.array(pair_losses(s, mx.array(counts), r, rule))


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_loss_has_its_hand_worked_value(name, backend):
    rule, expected = BY_HAND[name]
    np.testing.assert_allclose(compute_losses(backend, rule), [expected], rtol=1e-13)


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 10.0])
def test_dpo_starts_at_ln_2_for_every_beta(beta, backend):
    found = compute_losses(backend, Preference(beta=beta), reference=SUMS)
    np.testing.assert_allclose(found, [math.log(2)], rtol=1e-14)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("h", [-2.0, -1e-3, 0.0, 1e-3, 2.0])
def test_dpo_has_its_derivative_also_where_policy_and_reference_are_equal(backend, h):
    """Every run begins at h = 0, where minimum and abs have no derivative of their own."""
    rule = Preference(beta=0.5)
    if backend == "torch":
        import torch

        from hermes_torch.loss import pair_losses

        sums = torch.tensor([h, 0.0], dtype=torch.float64, requires_grad=True)
        pair_losses(sums, torch.tensor([4, 2]), torch.zeros(2), rule).sum().backward()
        found = sums.grad.tolist()
    else:
        import mlx.core as mx

        import hermes_mlx  # noqa: F401  before mlx.core, for its BLAS
        from hermes_mlx.loss import pair_losses

        def loss(sums):
            return pair_losses(sums, mx.array([4, 2]), mx.zeros(2), rule).sum()

        with mx.stream(mx.cpu):
            found = mx.grad(loss)(mx.array([h, 0.0])).tolist()
    slope = -0.5 * sigma(-0.5 * h)
    np.testing.assert_allclose(found, [slope, -slope], rtol=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "orpo", "simpo"])
def test_a_pair_of_padding_has_no_loss(loss, backend):
    found = compute_losses(backend, Preference(loss), sums=[0, 0], counts=[0, 0], reference=[0, 0])
    assert found.tolist() == [0]


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
def test_a_pair_of_extreme_odds_has_a_large_and_finite_loss(backend):
    found = compute_losses(backend, Preference(beta=1.0), sums=[-5000.0, 0.0], reference=[0.0, 0.0])
    np.testing.assert_allclose(found, [5000.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "dpo"}, "loss must be one of sigmoid, ipo, hinge, orpo, simpo, got 'dpo'"),
        ({"beta": -0.1}, "beta must be above 0, got -0.1"),
        (
            {"loss": "ipo", "label_smoothing": 0.1},
            "label_smoothing belongs to loss sigmoid, not to ipo",
        ),
    ],
)
def test_a_contradictory_rule_is_refused(settings, message):
    with pytest.raises(HermesError) as refused:
        Preference(**settings)
    assert str(refused.value) == message
