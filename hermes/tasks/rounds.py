"""The tasks that a training run is evaluated on, from the arguments of its call."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hermes.arguments import Call
from hermes.errors import HermesError
from hermes.interface import Model as BackendModel
from hermes.tasks.evaluation import (
    TaskFlags,
    TaskOptions,
    evaluate_tasks,
    find_tasks,
    require_harness,
    split_names,
)
from hermes.tasks.scores import TaskScore
from hermes.tokenizer import Tokenizer
from hermes.training.task_rounds import TaskRounds

__all__ = ["choose_rounds", "name_scores"]

FLAGS = TaskFlags("--eval-tasks", "--eval-tasks-path", "--eval-tasks-fewshot", "--eval-tasks-limit")


def choose_rounds(call: Call) -> TaskRounds | None:
    """The tasks of a call of a training function, None without any.

    Raises HermesError, also for a task that there is none of.
    """
    names, every = split_names(call["eval_tasks"]), call["eval_tasks_every"]
    if every < 0:
        raise HermesError(f"--eval-tasks-every must be at least 0, got {every}")
    if not names:
        for name in ("every", "path", "fewshot", "limit"):
            if call[f"eval_tasks_{name}"]:
                raise HermesError(f"--eval-tasks-{name} belongs to --eval-tasks; name some")
        return None
    require_harness(FLAGS.tasks)
    folder = call["eval_tasks_path"]
    options = TaskOptions(
        names,
        None if folder is None else Path(folder),
        call["eval_tasks_fewshot"],
        call["eval_tasks_limit"],
        flags=FLAGS,
    )
    found = find_tasks(options)

    def score(
        learner: BackendModel, tokenizer: Tokenizer, batch_size: int, go_on: Callable[[], None]
    ) -> Mapping[str, float]:
        from hermes.model import Model

        model = Model(learner, lambda: tokenizer)
        scores = evaluate_tasks(model, options, batch_size, go_on, found=found, in_training=True)
        return name_scores(scores)

    words = f"{','.join(names)} every {every}, {options.num_fewshot}, {options.limit}"
    return TaskRounds(every, score, words)


def name_scores(scores: Sequence[TaskScore]) -> dict[str, float]:
    """The values of scores by 'NAME/METRIC', or 'NAME/METRIC/FILTER' where a filter has a name.

    What is no number, as the mean of no question, is left out.
    """
    return {
        "/".join([one.task, one.metric, *([] if one.filter == "none" else [one.filter])]): one.value
        for one in scores
        if math.isfinite(one.value)
    }
