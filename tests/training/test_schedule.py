"""The learning rate of each step, how long a run is, and what the user is told about it."""

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.recipe import Recipe
from hermes.training.events import Position
from hermes.training.schedule import compute_lr, count_steps, warn_long_warmup


def rates(total, **fields):
    """The factors of lr in a run of so many steps."""
    recipe = Recipe(lr=1.0, **fields)
    return [compute_lr(recipe, step, total) for step in range(total)]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1]),
        ({"schedule": "linear", "min_lr_ratio": 0.0}, [1, 0.75, 0.5, 0.25, 0]),
        ({"schedule": "linear", "min_lr_ratio": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ({"schedule": "linear", "min_lr_ratio": 0.0, "warmup_steps": 2}, [0.5, 1, 1, 0.5, 0]),
        ({"schedule": "linear", "min_lr_ratio": 0.0, "warmup_ratio": 0.3}, [0.5, 1, 1, 0.5, 0]),
        ({"schedule": "cosine", "min_lr_ratio": 0.0},
         [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
        ({"schedule": "polynomial", "min_lr_ratio": 0.0}, [1, 0.5625, 0.25, 0.0625, 0]),
        ({"schedule": "polynomial", "min_lr_ratio": 0.1, "power": 1.0},
         [1, 0.775, 0.55, 0.325, 0.1]),
        ({"schedule": "wsd", "min_lr_ratio": 0.0, "decay_ratio": 0.4}, [1, 1, 1, 0.5, 0]),
        ({"schedule": "wsd", "min_lr_ratio": 0.0, "decay_steps": 4}, [1, 0.75, 0.5, 0.25, 0]),
        ({"schedule": "wsd", "min_lr_ratio": 0.0, "decay_steps": 4, "decay_shape": "1-sqrt"},
         [1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0]),
        ({"schedule": "points", "lr_points": (("0", "0"), ("2", "1"), ("100%", "0.4"))},
         [0, 0.5, 1, 0.8, 0.6]),
        ({"schedule": "points", "lr_points": (("3", "0.5"), ("1", "1"))}, [1, 1, 0.75, 0.5, 0.5]),
        ({"schedule": "points", "lr_points": (("2", "1"), ("2", "0.1"))}, [1, 1, 0.1, 0.1, 0.1]),
        ({"schedule": "points", "lr_points": (("2", "0.1"), ("40%", "1"))}, [0.1, 0.1, 1, 1, 1]),
    ],
    ids=str,
)  # fmt: skip
def test_the_rate_of_each_step(fields, wanted):
    np.testing.assert_allclose(rates(5, **fields), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay_steps": 3}, "decay_steps belongs to schedule wsd, not to constant"),
        ({"power": 3.0, "schedule": "linear"},
         "power belongs to schedule polynomial, not to linear"),
        ({"schedule": "points"}, "schedule points needs at least one of lr_points"),
        ({"schedule": "points", "lr_points": (("soon", "1"),)},
         "lr_point must be a step or percentage, and a factor of lr, got 'soon 1'"),
        ({"schedule": "points", "lr_points": (("1", "50%"),)},
         "lr_point must be a step or percentage, and a factor of lr, got '1 50%'"),
        ({"max_steps": 3, "train_tokens": 100},
         "max_steps and train_tokens are both given; keep one"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1},
         "warmup_steps and warmup_ratio are both given; keep one"),
        ({"decay_shape": "square", "schedule": "wsd"},
         "decay_shape must be one of linear, 1-sqrt, got 'square'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_schedule_does_not_have_is_refused(fields, message):
    with pytest.raises(HermesError) as caught:
        Recipe(**fields)
    assert str(caught.value) == message


def test_the_length_may_be_tokens_steps_or_epochs():
    sizes = {"batch_size": 4, "grad_accum": 2, "seq_len": 10}
    assert count_steps(Recipe(train_tokens=1000, **sizes), Position(), 99) == 13  # of 80 tokens
    assert count_steps(Recipe(train_tokens=1000, **sizes), Position(), 99, world_size=2) == 7
    assert count_steps(Recipe(max_steps=5, **sizes), Position(), 99) == 5
    assert count_steps(Recipe(epochs=2, **sizes), Position(), 99) == 25


def test_a_warmup_longer_than_the_run_is_said():
    assert warn_long_warmup(Recipe(lr=1e-3, warmup_steps=100), 4) == [
        "--warmup-steps 100 is more than the run's 4 steps: the learning rate reaches 4e-05 of "
        "0.001"
    ]
    assert warn_long_warmup(Recipe(warmup_steps=4), 4) == []
    assert warn_long_warmup(Recipe(warmup_steps=0), 4) == []
