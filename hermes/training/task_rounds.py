"""Evaluates a run's model on tasks while it trains; what a task is, the caller knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hermes.errors import Interrupted, PeerLost, explain_exhaustion
from hermes.interface import Learner, Model
from hermes.tokenizer import Tokenizer
from hermes.training.coordination import RankCoordinator
from hermes.training.events import OF_TASK, TaskScores, TasksFailed

__all__ = ["ScoreTasks", "TaskEvaluator", "TaskRounds", "has_scores"]

# Scores a model by 'NAME/METRIC'; calls its last argument between two batches, in each rank equally
# often, and lets through what that raises.
ScoreTasks = Callable[[Model, Tokenizer, int, Callable[[], None]], Mapping[str, float]]


@dataclass(frozen=True)
class TaskRounds:
    """The tasks of a run: score them every so many steps; 0 at its end alone.

    words: which tasks, for ranks that must agree on them.
    """

    every: int
    score: ScoreTasks = field(repr=False)
    words: str = ""


class RoundEnded(Exception):
    """The round ends early: the run is asked to stop, or another rank failed."""


class TaskEvaluator:
    """Evaluates the tasks in every rank alike, so that none waits for another for long."""

    def __init__(
        self,
        rounds: TaskRounds,
        tokenizer: Tokenizer,
        batch_size: int,
        coordinator: RankCoordinator,
    ):
        self.every = rounds.every
        self._score, self._tokenizer, self._batch_size = rounds.score, tokenizer, batch_size
        self._coordinator, self._said = coordinator, ""

    def evaluate(self, learner: Learner, step: int) -> TaskScores | TasksFailed | None:
        """The scores, or why there are none; None where the run is asked to stop meanwhile.

        Whatever the tasks raise, the run is worth more than they are.
        """
        verdicts: list[str] = []

        def go_on() -> None:
            verdicts.append(self._coordinator.decide())
            if verdicts[-1] != "go on":
                raise RoundEnded

        try:
            found = self._score(learner, self._tokenizer, self._batch_size, go_on)
            go_on()  # until here another rank may have failed
        except RoundEnded:
            if verdicts[-1] == "stop":
                return None
            return TasksFailed(step, "another process failed")
        except (PeerLost, Interrupted):
            raise
        except Exception as error:
            self._coordinator.decide(failed=True)
            return TasksFailed(step, _describe(error))
        return TaskScores(step, {f"{OF_TASK}{name}": value for name, value in found.items()})

    def is_new(self, failed: TasksFailed) -> bool:
        """Whether a failure is another one than the last that this was asked about."""
        before, self._said = self._said, failed.what
        return failed.what != before


def _describe(error: Exception) -> str:
    """An error as one sentence."""
    told = explain_exhaustion(error) or str(error) or type(error).__name__
    return " ".join(told.split())


def has_scores(record: Mapping[str, float]) -> bool:
    """Whether a line of metrics has scores of tasks."""
    return any(key.startswith(OF_TASK) for key in record)
