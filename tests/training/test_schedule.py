"""What the user is told about the schedule."""

from hermes.recipe import Recipe
from hermes.training.schedule import warn_long_warmup


def test_a_warmup_longer_than_the_run_is_said():
    assert warn_long_warmup(Recipe(lr=1e-3, warmup_steps=100), 4) == [
        "--warmup-steps 100 is more than the run's 4 steps: the learning rate reaches 4e-05 of "
        "0.001"
    ]
    assert warn_long_warmup(Recipe(warmup_steps=4), 4) == []
    assert warn_long_warmup(Recipe(warmup_steps=0), 4) == []
