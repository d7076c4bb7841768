"""A run: its folder, and the training loop that fills it.

    OUTPUT/run.yaml  metrics.jsonl  tokenizer.json      the run
    OUTPUT/step-00000200/                               its checkpoints

Everything that can be refused is looked at before anything is written.
"""

import dataclasses
import gc
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from hermes.checkpoint import Checkpoint, RunLock, find_newest, list_steps, open_checkpoint
from hermes.distributed.agreement import all_or_none
from hermes.errors import CheckpointError, HermesError
from hermes.interface import LazyTensors, Learner, Tensors, TrainState
from hermes.numerics.lora import init_adapters
from hermes.numerics.params import init_weights
from hermes.stages import report_stage
from hermes.storage.addresses import require_local
from hermes.storage.path_kinds import CHECKPOINT, HF_MODEL, PREPARED, describe_kind
from hermes.training.cooldown import open_stable_checkpoint, plan_cooldown
from hermes.training.coordination import NullRecorder, RankCoordinator
from hermes.training.events import Event
from hermes.training.exhaustion import explain_training_memory
from hermes.training.loop import TrainingLoop
from hermes.training.past_steps import PastSteps
from hermes.training.preflight import check_disk
from hermes.training.rank_checks import (
    collect_component_values,
    collect_request_values,
    require_same_on_all_ranks,
)
from hermes.training.recorder import RunRecorder
from hermes.training.recording import Recorder, choose_log_every
from hermes.training.request import RunComponents, RunRequest
from hermes.training.resume import prepare_resumed
from hermes.training.run_attention import describe_attention
from hermes.training.run_precision import describe_precision
from hermes.training.samples import SampleMaker, read_samples
from hermes.training.save_timer import SaveTimer
from hermes.training.setup import prepare_new
from hermes.training.step_meter import make_step_meter
from hermes.training.task_rounds import TaskEvaluator

__all__ = ["Run", "check_output", "has_checkpoint", "open_run"]


class Run:
    """A run that is ready to train; made by `open_run`, and best used in a `with` block.

    checkpoint: what it resumes from, None for a new run, also for a cool-down. id: the same in
    every session of the run, once it has saved. notes: sentences for the user. finished:
    nothing is left to do.
    """

    def __init__(self, request: RunRequest, lock: RunLock | None):
        self.request, self._lock = request, lock
        self.checkpoint, notes = _find_checkpoint(request)
        self.id = self.checkpoint.progress.run if self.checkpoint else secrets.token_hex(8)
        self._start = self.checkpoint
        if self.checkpoint is None and request.cooldown_from is not None:
            self._start = open_stable_checkpoint(request.cooldown_from)
            given = plan_cooldown(self._start, request.given)
            self.request = request = dataclasses.replace(request, given=given)
        self.components: RunComponents = (
            prepare_resumed(request, self._start, is_cooldown=self.checkpoint is None)
            if self._start
            else prepare_new(request)
        )
        self.position, self.total_steps = self.components.position, self.components.total_steps
        past = PastSteps(request, self.components, self.checkpoint)
        self._is_evaluation_missing = past.is_evaluation_missing()
        self._are_tasks_missing = past.are_tasks_missing()
        self.early_stopping = past.restore_early_stopping()
        self._guard, self._noise = past.restore_guard(), past.restore_noise()
        has_ended = self.early_stopping.exhausted or (
            self.position.step >= self.total_steps and not self._is_evaluation_missing
        )
        self.finished = has_ended and not self._are_tasks_missing
        self.notes = (*notes, *self.components.notes, *past.warn_odd_lines())
        self.notes += lock.notes if lock is not None else ()
        if not self.finished:
            self.notes += (*past.warn_lost_metrics(), *describe_precision(request))
            self.notes += describe_attention(request, self.components)
        if lock is not None and not self.finished:
            self.notes += tuple(
                check_disk(
                    request,
                    self.components.spec,
                    self.components.recipe,
                    self.position.step,
                    self.total_steps,
                )
            )
        self._learner: Learner | None = None

    def build(self) -> None:
        """Build the learner, unless the run is finished."""
        if self.finished or self.request.dry_run:
            return
        self._learner = self._build_from(self._start)

    def _build_from(self, start: Checkpoint | None) -> Learner:
        parts, request = self.components, self.request
        if start is not None:
            state = dataclasses.replace(start.state, can_reread=True)
        else:
            state = TrainState(_make_first_weights(request, parts), {}, {}, 0, can_reread=True)
        report_stage(f"building {parts.spec.name}")
        with explain_training_memory(request, parts.recipe, parts.spec.name):
            learner = request.backend.learner(
                parts.spec, state, parts.recipe, request.options, request.process_group
            )
        report_stage("")
        return learner

    def rebuild(self, saved: Path | None) -> Learner:
        """Build the learner anew from a checkpoint of this run, or from where the run began.

        Called by all ranks, once the checkpoint is whole in rank 0. Raises CheckpointError.
        """
        self._learner = None
        gc.collect()  # what the old one holds in cycles must leave the device first
        # A barrier: no rank may open a folder that rank 0 still writes.
        self.request.process_group.all_reduce_sum([0.0])

        def build() -> Learner:
            return self._build_from(self._start if saved is None else open_checkpoint(saved))

        return all_or_none(self.request.process_group, build)

    def _make_sample_maker(self) -> SampleMaker | None:
        request, parts = self.request, self.components
        if not request.samples.every:
            return None
        encode = parts.training_data.encode_prompt or parts.tokenizer.encode_prompt
        return SampleMaker(request.samples, parts.tokenizer, encode, parts.recipe.seed)

    def _make_task_evaluator(self, coordinator: RankCoordinator) -> TaskEvaluator | None:
        tasks, parts = self.request.tasks, self.components
        if tasks is None:
            return None
        return TaskEvaluator(tasks, parts.tokenizer, parts.recipe.batch_size, coordinator)

    def train(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Train, yielding what happens and writing the run's files.

        stop: polled after every step and every batch of an evaluation. Raises NonFinite,
        StorageError, and what the backend refuses.
        """
        if self._learner is None:
            return iter(())
        request, parts = self.request, self.components
        saved = self.checkpoint.path if self.checkpoint else None
        coordinator = RankCoordinator(
            request.process_group,
            self._learner,
            stop,
            self.position.step,
            saved,
            SaveTimer(request.save_minutes),
        )
        # No generator of its own, so that the loop is one call away from the caller.
        return TrainingLoop(
            learner=self._learner,
            recipe=parts.recipe,
            data=parts.training_data,
            recorder=self._make_recorder(self._learner),
            coordinator=coordinator,
            total_steps=self.total_steps,
            log_every=request.log_every or choose_log_every(self.total_steps),
            position=self.position,
            saved=saved,
            evaluated=not self._is_evaluation_missing,
            early_stopping=self.early_stopping,
            guard=self._guard,
            rebuild=self.rebuild,
            save_every_epoch=request.save_every_epoch,
            noise=self._noise,
            samples=self._make_sample_maker(),
            tasks=self._make_task_evaluator(coordinator),
            has_task_scores=not self._are_tasks_missing,
            meter=make_step_meter(request, parts.spec, parts.recipe),
            sampled=any(one["step"] == self.position.step for one in read_samples(request.output)),
        ).run()

    def _make_recorder(self, learner: Learner) -> Recorder:
        request = self.request
        if request.process_group.rank_info.rank == 0:
            return RunRecorder(request, self.components, learner, self.id)
        is_sharded = bool(request.options.shard)
        return NullRecorder(request.output, request.process_group, learner, is_sharded)

    def close(self) -> None:
        """Release the data and the folder."""
        self.components.training_data.tokens.close()
        if self._lock is not None:
            self._lock.close()

    def discard(self) -> None:
        """Close a run that cannot start, and remove a folder that was made for it."""
        self.close()
        if self._lock is not None:
            self._lock.remove_new_folder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _make_first_weights(request: RunRequest, parts: RunComponents) -> Tensors:
    """The tensors that a new run starts from: fresh or given weights, and fresh adapters."""
    recipe, given = parts.recipe, request.initial_model
    base = given.params if given else init_weights(parts.spec, recipe.seed)
    if recipe.lora is None:
        return base
    adapters = init_adapters(parts.spec, recipe.lora, recipe.seed, base)
    if given and given.change_adapters:
        adapters = given.change_adapters(adapters, recipe.lora.token_ids)
    names = (*base, *adapters)
    return LazyTensors(names, lambda name: adapters[name] if name in adapters else base[name])


def _find_checkpoint(request: RunRequest) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The checkpoint to resume from, None for a new run, and what to tell the user about it."""
    if not request.resume:
        return None, ()
    search = find_newest(request.output)
    notes = tuple(f"passed over {skip.path}: {skip.reason}" for skip in search.skipped)
    if search.checkpoint is None and search.skipped:
        raise CheckpointError(
            f"run {str(request.output)!r} has no whole checkpoint to resume from: "
            f"{search.skipped[0].reason}; choose another --output to start anew"
        )
    if search.checkpoint is None:
        return None, (*notes, f"nothing to resume in {request.output}; the run starts fresh")
    if not search.checkpoint.resumable:
        raise CheckpointError(
            f"{search.checkpoint.path} has no optimizer state, so no run can resume from it"
        )
    return search.checkpoint, notes


def open_run(request: RunRequest, on_prepared: Callable[[Run], None] = lambda run: None) -> Run:
    """Check everything that can be refused, and lock the run's folder; nothing else is written.

    All ranks open the run or none. on_prepared: called before the model is built, which may take
    long. Raises HermesError of every kind.
    """
    process_group = request.process_group
    require_same_on_all_ranks(process_group, collect_request_values(request))
    run = all_or_none(process_group, lambda: _open_on_rank(request), Run.discard)
    try:
        require_same_on_all_ranks(process_group, collect_component_values(run.components))
        on_prepared(run)
        all_or_none(process_group, run.build)
    except BaseException:
        run.discard()
        raise
    return run


def _open_on_rank(request: RunRequest) -> Run:
    if request.process_group.rank_info.rank > 0:  # rank 0 locks the folder for all
        return Run(request, None)
    check_output(request.output, resume=request.resume)
    lock = RunLock(request.output, required=False)
    try:
        return Run(request, lock)
    except BaseException:
        lock.close()
        lock.remove_new_folder()
        raise


def has_checkpoint(output: str | Path) -> bool:
    """Whether the folder holds a run that has saved."""
    return bool(list_steps(Path(output)))


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse a folder that a new run would write into; with `resume` it may hold a run.

    Raises HermesError.
    """
    if not output.exists():
        require_local(output, "runs")
        return
    if not output.is_dir():
        raise HermesError(f"output {str(output)!r} is a file; choose a folder")
    if (kind := describe_kind(output)) in (CHECKPOINT, HF_MODEL, PREPARED):
        its = f"give its run, {output.parent}" if kind == CHECKPOINT else "choose another directory"
        raise HermesError(f"output {str(output)!r} is {kind}; {its}")
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
            "resume the run in it"
        )
