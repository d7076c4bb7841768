"""Evaluates a model on tasks of lm-evaluation-harness, its own and those of a folder."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hermes.chat_templates.template import Template
from hermes.errors import HermesError, suggest_nearest
from hermes.stages import report_stage
from hermes.tasks.scores import TaskScore, collect_scores

if TYPE_CHECKING:
    from hermes.model import Model

__all__ = [
    "TaskFlags",
    "TaskOptions",
    "evaluate_tasks",
    "find_tasks",
    "require_harness",
    "split_names",
]

# The harness's table of tasks, and the names in it that are meant.
FoundTasks = tuple[Any, list[str]]
ITERATIONS = 100_000  # of the bootstrap, as the harness has it


@dataclass(frozen=True)
class TaskFlags:
    """What a command calls its options of tasks, for messages about them."""

    tasks: str = "--tasks"
    include_path: str = "--include-path"
    num_fewshot: str = "--num-fewshot"
    limit: str = "--limit"


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how they are asked.

    names: of tasks, groups and tags, or patterns of them. include_path: a folder with tasks of
    one's own. num_fewshot: solved examples before each question, None for as many as the task says.
    limit: questions of each task; below 1 a share of them; None for all. template: questions are
    messages of a chat, written with it. flags: of the command.
    """

    names: tuple[str, ...]
    include_path: Path | None = None
    num_fewshot: int | None = None
    limit: float | None = None
    template: Template | None = None
    flags: TaskFlags = TaskFlags()

    def __post_init__(self) -> None:
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise HermesError(
                f"{self.flags.num_fewshot} must be at least 0, got {self.num_fewshot}"
            )
        if self.limit is not None and not self.limit > 0:
            raise HermesError(f"{self.flags.limit} must be above 0, got {self.limit:g}")
        if self.include_path is not None and not self.include_path.is_dir():
            raise HermesError(f"{self.flags.include_path}: {self.include_path} is no folder")


def require_harness(flag: str = "--tasks") -> None:
    """Refuse tasks where lm-evaluation-harness is not installed. Raises HermesError."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise HermesError(
            f"{flag} needs lm-evaluation-harness ({error}); pip install 'hermes-llm[tasks]'"
        ) from error


def evaluate_tasks(
    model: "Model",
    options: TaskOptions,
    batch_size: int,
    go_on: Callable[[], None] = lambda: None,
    *,
    found: FoundTasks | None = None,
    in_training: bool = False,
) -> tuple[TaskScore, ...]:
    """The scores of a model on tasks. go_on: called before each batch.

    found: what `find_tasks` says of the options; None to ask it, which reads thousands of files.
    in_training: ranks of a run evaluate beside each other, of which the harness gives the scores to
    rank 0 alone; () in others. Standard errors without a formula are left out: the harness computes
    them in processes that it ends by SIGTERM, which a run catches. Raises HermesError.
    """
    require_harness(options.flags.tasks)
    from lm_eval.evaluator import simple_evaluate

    from hermes.tasks.harness_model import HarnessModel

    report_stage("loading tasks")
    manager, names = found or find_tasks(options)
    limit = options.limit
    with _keep_random_state():
        try:
            results = simple_evaluate(
                model=HarnessModel(model, batch_size, options.template, go_on),
                tasks=names,
                task_manager=manager,
                num_fewshot=options.num_fewshot,
                limit=int(limit) if limit is not None and limit >= 1 else limit,
                apply_chat_template=options.template is not None,
                log_samples=False,
                bootstrap_iters=0 if in_training else ITERATIONS,
                torch_random_seed=None,  # nothing here draws torch's numbers
            )
        except (OSError, ValueError) as error:
            raise HermesError(
                f"lm-evaluation-harness cannot evaluate {', '.join(names)}: {error}"
            ) from error
    report_stage("")
    if results is None and in_training:
        return ()
    if results is None:
        raise HermesError("tasks are evaluated by one process; start hermes without a launcher")
    return collect_scores(results)


def find_tasks(options: TaskOptions) -> FoundTasks:
    """The harness's table of tasks, and the names in it that are meant. Raises HermesError."""
    from lm_eval.tasks import TaskManager

    folder = options.include_path
    manager = TaskManager(include_path=None if folder is None else str(folder))
    names: list[str] = []
    for name in options.names:
        matching = manager.match_tasks([name])
        if not matching:
            own = f"{options.flags.include_path} adds a folder of your own"
            others = f"; lm_eval ls tasks lists them, and {own}"
            hint = suggest_nearest(name, manager.all_tasks) or others
            raise HermesError(f"{options.flags.tasks}: there is no task {name!r}{hint}")
        names += [one for one in matching if one not in names]
    return manager, names


@contextmanager
def _keep_random_state() -> Iterator[None]:
    """A block after which Python's and NumPy's global random numbers go on as before.

    The harness seeds them, for tasks that shuffle.
    """
    own, numpys = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(own)
        np.random.set_state(numpys)


def split_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """The names in one or several lists of them, 'hellaswag,arc_easy'."""
    lists = [given] if isinstance(given, str) else given
    return tuple(part.strip() for one in lists for part in one.split(",") if part.strip())
