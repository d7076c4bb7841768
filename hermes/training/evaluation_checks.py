"""What options that wait for evaluations are refused for, before data is read and once it is."""

from dataclasses import dataclass
from typing import Self

from hermes.errors import HermesError, suggest_nearest
from hermes.recipe import Recipe
from hermes.training.averaged_evaluation import OF_AVERAGE
from hermes.training.training_data import TrainingData

__all__ = [
    "HeldOut",
    "check_best_metric",
    "check_metric_name",
    "check_patience",
    "warn_no_evaluation",
]


@dataclass(frozen=True)
class HeldOut:
    """What a run is evaluated on.

    is_there: whether anything is held out. unit: what its samples are called, in the plural.
    measures: names of what a step is measured by besides its loss. takes_files: whether it may be
    data of its own, which text alone can have.
    """

    is_there: bool
    unit: str
    measures: tuple[str, ...]
    takes_files: bool

    @classmethod
    def describe(cls, data: TrainingData) -> Self:
        """What is held out of data that has been read."""
        there = bool(data.dataset.held_out)
        return cls(there, data.unit, data.measures, data.record is not None)

    def say_what_is_missing(self) -> str:
        """What must be held out for an evaluation, and the options that do it."""
        own = " or --val-data" if self.takes_files else ""
        return f"{self.unit} held out: --val-fraction{own}"


def warn_no_evaluation(held_out: HeldOut, recipe: Recipe) -> list[str]:
    """What to tell the user about --eval-every where nothing is held out to evaluate."""
    if not recipe.eval_every or held_out.is_there:
        return []
    return [
        f"--eval-every {recipe.eval_every} has no effect: it needs {held_out.say_what_is_missing()}"
    ]


def check_patience(patience: int, held_out: HeldOut, recipe: Recipe) -> None:
    """Raise HermesError where --patience would wait for evaluations that never come."""
    if patience:
        _require_evaluations("--patience", held_out, recipe)


def check_metric_name(metric: str, measures: tuple[str, ...], *, ema: bool) -> bool:
    """Whether a metric of --keep-best is one of held-out data.

    measures: as in HeldOut. ema: whether the average of the weights is evaluated, too. Raises
    HermesError for a metric that no checkpoint would have.
    """
    of_steps = ("loss", "grad_norm", *measures)
    of_held_out = ("val_loss", "val_bits_per_byte", *(f"val_{name}" for name in measures))
    if ema:
        of_held_out = (*of_held_out, *(f"{name}{OF_AVERAGE}" for name in of_held_out))
    known = (*of_steps, *of_held_out)
    if metric not in known:
        raise HermesError(
            f"--keep-best: there is no metric {metric!r}{suggest_nearest(metric, known)}"
        )
    return metric in of_held_out


def check_best_metric(metric: str | None, held_out: HeldOut, recipe: Recipe) -> list[str]:
    """What to tell the user about the metric of --keep-best.

    Raises HermesError for a metric that no checkpoint would have.
    """
    if metric is None or not check_metric_name(metric, held_out.measures, ema=bool(recipe.ema)):
        return []
    _require_evaluations(f"--keep-best {metric}", held_out, recipe)
    if recipe.save_every % recipe.eval_every == 0:
        return []
    return [
        f"only checkpoints of steps with an evaluation have a {metric}, others are not compared"
    ]


def _require_evaluations(option: str, held_out: HeldOut, recipe: Recipe) -> None:
    """Raise HermesError where an option waits for evaluations that never come."""
    if not held_out.is_there:
        raise HermesError(f"{option} needs {held_out.say_what_is_missing()}")
    if not recipe.eval_every:
        raise HermesError(f"{option} needs evaluations on the way: --eval-every")
