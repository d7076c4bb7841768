"""A run: its folder, and the loop that fills it.

    OUTPUT/run.yaml  metrics.jsonl  tokenizer.json      the run
    OUTPUT/step-00000200/                               its checkpoints

Nothing is written before everything that can be refused has been looked at.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from hermes.checkpoint import Checkpoint, RunLock, find_newest, list_steps
from hermes.data import Cursor
from hermes.distributed.agreement import all_or_none
from hermes.errors import CheckpointError, HermesError
from hermes.evaluation.perplexity import evaluate_perplexity
from hermes.interface import Batch, LazyTensors, Learner, Tensors, TrainState
from hermes.numerics.lora import init_adapters
from hermes.numerics.params import init_weights
from hermes.training.coordination import (
    NullRecorder,
    RankCoordinator,
    average_measures,
    count_targets,
)
from hermes.training.events import Evaluation, Event
from hermes.training.loop import LoopConfig, default_log_every, due, updates
from hermes.training.metrics_file import read_metrics
from hermes.training.rank_checks import component_values, request_values, require_same_on_all_ranks
from hermes.training.recorder import RunRecorder
from hermes.training.request import RunComponents, RunRequest, device
from hermes.training.schedule import samples_per_update
from hermes.training.setup import prepare

__all__ = ["Run", "RunRequest", "check_output", "device", "open_run"]


class Run:
    """A run, ready to train; made by `open_run`, and best used in a `with` block.

    checkpoint: what it goes on from. notes: sentences that its user should hear first. finished:
    nothing is left to do.
    """

    def __init__(self, request: RunRequest, lock: RunLock | None):
        self.request, self._lock = request, lock
        self.checkpoint, found = _find(request)
        self.parts: RunComponents = prepare(request, self.checkpoint)
        self.notes = (*found, *self.parts.notes)
        self.position, self.total_steps = self.parts.position, self.parts.total_steps
        self._owes = self._owes_evaluation()
        self.finished = self.position.step >= self.total_steps and not self._owes
        self.notes += self._lost_lines()
        self._learner: Learner | None = None

    def build(self) -> None:
        """Make what trains, of a run that is not finished."""
        if not self.finished:
            self._learner = self._built()

    def _built(self) -> Learner:
        parts, request = self.parts, self.request
        if self.checkpoint is not None:
            state = self.checkpoint.state
        else:
            state = TrainState(_first_weights(request, parts), {}, {}, 0)
        return request.backend.learner(
            parts.spec, state, parts.recipe, request.options, request.process_group
        )

    def _lost_lines(self) -> tuple[str, ...]:
        """What to say where a run that goes on has no record of its updates any more."""
        path, step = self.request.output / "metrics.jsonl", self.position.step
        if path.exists() or step == 0 or self.finished:
            return ()
        return (f"{path} is gone, and with it the lines up to step {step:,}; a new one begins",)

    def _owes_evaluation(self) -> bool:
        """Whether the step that the run goes on from should have an evaluation and has none."""
        step, every = self.position.step, self.parts.recipe.eval_every
        if not self.parts.material.samples.held_out or not due(step, every, self.total_steps):
            return False
        output = self.request.output
        lines = read_metrics(output) if (output / "metrics.jsonl").exists() else []
        return not any(line["step"] == step and "val_loss" in line for line in lines)

    def events(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Train, yielding what happens; the run's files are written on the way.

        stop is polled after every update and every batch of an evaluation. Raises NonFinite,
        StorageError, and what the backend refuses.
        """
        if self._learner is None:
            return
        request, parts, learner = self.request, self.parts, self._learner
        output, data = request.output, parts.material.samples
        process_group, rank_info = request.process_group, request.process_group.rank_info
        saved = self.checkpoint.path if self.checkpoint else None
        asked = RankCoordinator(process_group, learner, stop, self.position.step, saved)
        with ExitStack() as stack:
            split = learner if request.options.shard else None
            follower = NullRecorder(output, process_group, split)
            keeper = self._keeper(stack, learner) if rank_info.rank == 0 else follower

            def evaluate(step: int) -> Evaluation | None:
                if parts.material.evaluate is not None:
                    numbers = parts.material.evaluate(learner, asked)
                    others = {k: v for k, v in (numbers or {}).items() if k != "val_loss"}
                    return Evaluation(step, numbers["val_loss"], None, others) if numbers else None
                text_bytes = data.count_validation_bytes(parts.tokenizer.byte_lengths)
                batches = data.iterate_validation(
                    parts.recipe.batch_size, rank=rank_info.rank, world_size=rank_info.world_size
                )
                found = evaluate_perplexity(learner, batches, text_bytes, asked, process_group)
                return Evaluation(step, found.loss, found.bits_per_byte) if found else None

            yield from updates(
                LoopConfig(
                    learner=learner,
                    recipe=parts.recipe,
                    total_steps=self.total_steps,
                    log_every=request.log_every or default_log_every(self.total_steps),
                    batches=self._batch,
                    epochs_done=lambda cursor: (
                        cursor.count_samples(len(data.train)) / len(data.train)
                    ),
                    record=keeper.record,
                    save=asked.saves(keeper.save),
                    is_saved=keeper.is_saved,
                    wait=keeper.wait,
                    evaluate=evaluate if data.held_out else None,
                    measure=lambda batch, report: average_measures(
                        process_group, parts.material.measure, batch, report
                    ),
                    pace=asked.pace,
                    position=self.position,
                    saved=saved,
                    evaluated=not self._owes,
                    stop=asked.after_update,
                )
            )

    def _batch(self, cursor: Cursor) -> tuple[Batch, Cursor]:
        """This process's share of the next update."""
        recipe, process_group = self.parts.recipe, self.request.process_group
        data, rank_info = self.parts.material.samples, process_group.rank_info
        batch, after = data.draw_batch(
            cursor,
            samples=samples_per_update(recipe, cursor, len(data.train), rank_info.world_size),
            micro_batch=recipe.batch_size,
            accum=recipe.grad_accum,
            rank=rank_info.rank,
            world_size=rank_info.world_size,
        )
        return count_targets(process_group, batch), after

    def _keeper(self, stack: ExitStack, learner: Learner) -> RunRecorder:
        return stack.enter_context(
            RunRecorder(self.request, self.parts, learner, begun_by=self.checkpoint)
        )

    def close(self) -> None:
        """Let go of the data and the folder."""
        self.parts.material.stream.close()
        if self._lock is not None:
            self._lock.close()

    def withdraw(self) -> None:
        """Close a run that cannot begin; a folder that was made for it goes."""
        self.close()
        if self._lock is not None:
            self._lock.remove_new_folder()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _first_weights(request: RunRequest, parts: RunComponents) -> Tensors:
    """What a new run begins from: fresh weights or those it was given, and fresh adapters."""
    recipe = parts.recipe
    base = request.start.params if request.start else init_weights(parts.spec, recipe.seed)
    if recipe.lora is None:
        return base
    adapters = init_adapters(parts.spec, recipe.lora, recipe.seed)
    names = (*base, *adapters)
    return LazyTensors(names, lambda name: adapters[name] if name in adapters else base[name])


def _find(request: RunRequest) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The checkpoint to go on from, and what to say about it."""
    if not request.resume:
        return None, ()
    search = find_newest(request.output)
    notes = tuple(f"passed over {skip.path}: {skip.reason}" for skip in search.skipped)
    if search.checkpoint is None and search.skipped:
        raise CheckpointError(
            f"run {str(request.output)!r} has no whole checkpoint to go on from: "
            f"{search.skipped[0].reason}; choose another --output to start anew"
        )
    if search.checkpoint is None:
        return None, (*notes, f"nothing to resume in {request.output}; the run starts fresh")
    if not search.checkpoint.resumable:
        raise CheckpointError(
            f"{search.checkpoint.path} has no optimizer state, so no run can go on from it"
        )
    return search.checkpoint, notes


def open_run(request: RunRequest) -> Run:
    """Look at all that can be refused, and hold the run's folder; nothing else is written.

    Where several processes make the run, all open it or none. Raises HermesError of every kind.
    """
    process_group = request.process_group
    require_same_on_all_ranks(process_group, request_values(request))
    run = all_or_none(process_group, lambda: _open(request), Run.withdraw)
    try:
        require_same_on_all_ranks(process_group, component_values(run.parts))
        all_or_none(process_group, run.build)
    except BaseException:
        run.withdraw()
        raise
    return run


def _open(request: RunRequest) -> Run:
    if request.process_group.rank_info.rank > 0:  # rank 0 holds the folder for all
        return Run(request, None)
    check_output(request.output, resume=request.resume)
    lock = RunLock(request.output)
    try:
        return Run(request, lock)
    except BaseException:
        lock.close()
        lock.remove_new_folder()
        raise


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse a folder that a new run would write into; with `resume` it may have one.

    Raises HermesError.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise HermesError(f"output {str(output)!r} is a file; choose a folder")
    if resume:
        return
    if done := list_steps(output):
        raise HermesError(
            f"run {str(output)!r} already has step {done[0][0]}; choose another directory or pass "
            "--resume"
        )
    # logs may hold why an earlier start of several processes failed.
    if any(entry.name not in (".lock", "logs") for entry in output.iterdir()):
        raise HermesError(
            f"output {str(output)!r} is not empty; choose another directory, or pass --resume to "
            "go on with a run in it"
        )
