"""Scores of tasks, as lm-evaluation-harness reports them."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

__all__ = ["TaskScore", "collect_scores"]


@dataclass(frozen=True)
class TaskScore:
    """One metric of a task, or the mean of a group of tasks.

    filter: what picks the answer out of a generated text; 'none' where the text is taken whole.
    value, stderr: the metric and its standard error, None where the harness gives none.
    num_fewshot: solved examples before each question, None of a group of which it differs.
    samples: questions, None of a group. version: the task's.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None = None
    num_fewshot: int | None = None
    samples: int | None = None
    version: str = ""


def collect_scores(found: Mapping[str, Any]) -> tuple[TaskScore, ...]:
    """The scores in what `lm_eval.simple_evaluate` returns, in its order of tasks and metrics."""
    scores = []
    for task, numbers in found["results"].items():
        shots = found.get("n-shot", {}).get(task)
        samples = found.get("n-samples", {}).get(task, {}).get("effective")
        version = found.get("versions", {}).get(task)
        for key, value in numbers.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            error = numbers.get(f"{metric}_stderr,{name}")
            scores.append(
                TaskScore(
                    task,
                    metric,
                    name,
                    float(value),
                    float(error) if isinstance(error, Real) else None,
                    shots if isinstance(shots, int) else None,
                    samples,
                    "" if version is None else str(version),
                )
            )
    return tuple(scores)
