"""Evaluates a learner, and the average of its weights where the run keeps one."""

from collections.abc import Callable, Mapping

from hermes.interface import Learner
from hermes.training.training_data import TrainingData

__all__ = ["OF_AVERAGE", "evaluate_learner"]

# What follows a number's name where it is of the average of the weights: val_loss_ema.
OF_AVERAGE = "_ema"


def evaluate_learner(
    data: TrainingData, learner: Learner, stop: Callable[[], bool], *, has_average: bool
) -> Mapping[str, float] | None:
    """The numbers of an evaluation by name, None where it was asked to stop.

    has_average: the learner keeps an average of its weights, which is evaluated, too.
    """
    numbers = data.evaluate(learner, stop)
    if numbers is None or not has_average:
        return numbers
    with learner.use_average():
        averaged = data.evaluate(learner, stop)
    if averaged is None:
        return None
    return {**numbers, **{f"{name}{OF_AVERAGE}": value for name, value in averaged.items()}}
