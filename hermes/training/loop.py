"""The training loop: optimizer steps, and what is logged, evaluated and saved between them.

It knows no files, backends or terminals: a `Recorder` writes, a `RankCoordinator` keeps the ranks
together, and what happens is yielded as events. A loss stays on the device until a line of metrics
is due, and there until the next step is queued, so that the device never waits for the host. It is
read at once where a policy needs it: before anything is saved, evaluated or stopped.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hermes.data import Cursor
from hermes.errors import HermesError, NonFinite
from hermes.interface import Batch, Learner, StepReport
from hermes.numerics.gradient_noise import GradientNoise, RankShare
from hermes.recipe import Recipe
from hermes.stages import report_stage
from hermes.training.averaged_evaluation import evaluate_learner
from hermes.training.batch_reader import BatchReader, BatchShape, find_step_size
from hermes.training.coordination import RankCoordinator
from hermes.training.early_stopping import EarlyStopping
from hermes.training.events import (
    Evaluation,
    Event,
    Overflow,
    Position,
    RolledBack,
    Sample,
    Saved,
    Skipped,
    Spike,
    Stopped,
    StoppedEarly,
    TaskScores,
)
from hermes.training.loss_guard import Bad, LossGuard, describe_bad
from hermes.training.pending_step import PendingStep, PendingSteps
from hermes.training.recording import Recorder, is_due
from hermes.training.samples import SampleMaker
from hermes.training.schedule import compute_lr, count_steps
from hermes.training.step_meter import StepCost, StepMeter
from hermes.training.step_metrics import make_update
from hermes.training.task_rounds import TaskEvaluator
from hermes.training.throughput import Throughput
from hermes.training.training_data import TrainingData

__all__ = ["TrainingLoop"]


@dataclass
class TrainingLoop:
    """Trains from `position` to `total_steps`, or until `early_stopping` ends it.

    saved: the checkpoint of `position`, None where there is none. evaluated: whether the
    evaluation due at `position` is already in the metrics. guard: what becomes of steps that are
    not finite, and of spikes. rebuild: makes the learner anew from a checkpoint, or from where the
    run began where that is None. save_every_epoch: save after the step that ends an epoch, too.
    noise: averages of the gradients' noise, None where it is not measured.
    samples: made every so many steps; sampled: whether those of `position` are. tasks: evaluated
    every so many steps, after a checkpoint; has_task_scores: whether those due at `position` are.
    meter: measures what steps cost. clock: seconds, for the throughput.
    """

    learner: Learner
    recipe: Recipe
    data: TrainingData
    recorder: Recorder
    coordinator: RankCoordinator
    total_steps: int
    log_every: int
    position: Position = field(default_factory=Position)
    saved: Path | None = None
    evaluated: bool = False
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    guard: LossGuard = field(default_factory=LossGuard)
    rebuild: Callable[[Path | None], Learner] | None = None
    save_every_epoch: bool = False
    noise: GradientNoise | None = None
    samples: SampleMaker | None = None
    sampled: bool = False
    tasks: TaskEvaluator | None = None
    has_task_scores: bool = True
    meter: StepMeter = field(default_factory=StepMeter)
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        step = self.position.step
        self._saved_step = step if self.saved else -1
        self._evaluated_step = step if self.evaluated else -1
        self._tasked_step = step if self.has_task_scores else -1
        self._unannounced: Saved | None = None
        self._pending = PendingSteps()
        self._mark_return()
        self._throughput = Throughput(self.clock, self.position.tokens)

    def run(self) -> Iterator[Event]:
        """Train, yielding what happens; ends with Stopped where it was stopped before the end.

        Raises NonFinite at a loss or gradient that is not finite, as `guard` has it: the backend
        did not apply that step, nothing is saved after it, and the last checkpoint stays.
        """
        with self.recorder, self._make_reader() as self._reader:
            stopping = False
            if self._is_evaluation_missing():
                # The run was stopped after saving this step and before evaluating it.
                stopping = yield from self._evaluate()
            if self._are_tasks_missing() and not stopping:
                stopping = yield from self._evaluate_tasks()
            if not self.sampled and not stopping:
                yield from self._make_samples()
            began = self.position.step
            while self._has_steps_left() and not stopping:
                # The first step compiles; on a device that runs ahead it ends with the second.
                report_stage("computing the first step" if self.position.step == began else "")
                before = self.position.cursor
                batch, cursor = self._draw_batch()
                lr = compute_lr(self.recipe, self.position.step, self.total_steps)
                report = self.learner.step(batch, lr)
                self._advance(report, lr, batch, cursor)
                yield from self._announce_saved()
                stopping = self.coordinator.should_stop_after_step()
                step = self.position.step
                saves, evaluates = self._is_save_due(before), self._is_evaluation_due()
                saves = saves or self._are_tasks_missing()
                at_once = step == 1 or stopping or saves or evaluates
                # The limit of the next step's loss is made of those before it.
                at_once = at_once or self.guard.loss_limit is not None or self._are_samples_due()
                if (yield from self._read_pending(at_once)):
                    # Without a checkpoint there is nothing to stop at before the next step.
                    stopping = stopping and self.saved is not None
                    continue
                # A checkpoint includes its step's evaluation, so the evaluation comes first. After
                # the last step the order is reversed: a long evaluation must not risk the weights.
                if step == self.total_steps:
                    yield from self._save()
                if evaluates and not stopping:
                    stopping = yield from self._evaluate()
                saves = saves or stopping or self.early_stopping.should_save(step)
                if saves and self._saved_step != step:
                    yield from self._save()
                if not stopping and self._are_tasks_missing():
                    stopping = yield from self._evaluate_tasks()
                if not stopping:
                    yield from self._make_samples()
            self.recorder.wait()
            yield from self._announce_saved()
        if self.early_stopping.exhausted and not stopping:
            best = self.early_stopping
            yield StoppedEarly(self.position.step, best.best_step, best.best)
        elif stopping and (self.position.step < self.total_steps or self._is_anything_missing()):
            yield Stopped(self.position.step)

    def _is_due(self, every: int) -> bool:
        return is_due(self.position.step, every, self.total_steps)

    def _has_steps_left(self) -> bool:
        return self.position.step < self.total_steps and not self.early_stopping.exhausted

    def _is_save_due(self, before: Cursor) -> bool:
        """Whether to save after the step that moved the cursor on from `before`."""
        ends_epoch = self.position.cursor.epoch > before.epoch
        by_epoch = self.save_every_epoch and ends_epoch
        return self._is_due(self.recipe.save_every) or self.coordinator.should_save or by_epoch

    def _is_evaluation_due(self) -> bool:
        return bool(self.data.dataset.held_out) and self._is_due(self.recipe.eval_every)

    def _is_evaluation_missing(self) -> bool:
        return self._is_evaluation_due() and self._evaluated_step != self.position.step

    def _are_tasks_missing(self) -> bool:
        """Whether tasks are due, also where the run ends early, and are not evaluated."""
        tasks, step = self.tasks, self.position.step
        if tasks is None or self._tasked_step == step or step == 0:
            return False
        return self._is_due(tasks.every) or self.early_stopping.exhausted

    def _is_anything_missing(self) -> bool:
        return self._is_evaluation_missing() or self._are_tasks_missing()

    def _make_reader(self) -> BatchReader:
        rank_info = self.coordinator.rank_info
        shape = BatchShape(self.recipe.grad_accum, rank_info.rank, rank_info.world_size)
        return BatchReader(self.data.dataset, shape)

    def _draw_batch(self) -> tuple[Batch, Cursor]:
        """This rank's share of the next step's samples, and the cursor after them.

        The share of the step after it is drawn meanwhile.
        """
        cursor, step = self.position.cursor, self.position.step
        size, world_size = len(self.data.dataset.train), self.coordinator.rank_info.world_size
        find_size = partial(find_step_size, self.recipe, size, world_size)
        batch, after = self._reader.draw(cursor, find_size(cursor, step))
        if step + 1 < self.total_steps:
            self._reader.draw_ahead(after, find_size(after, step + 1))
        measures_noise, limit = self.noise is not None, self.guard.loss_limit
        batch = replace(batch, measures_noise=measures_noise, loss_limit=limit)
        return self.coordinator.add_global_counts(batch), after

    def _advance(self, report: StepReport, lr: float, batch: Batch, cursor: Cursor) -> None:
        at = self.position
        self.position = Position(at.step + 1, at.tokens + batch.counts.targets, cursor)
        self._pending.add(PendingStep(report, self.position, lr, batch))

    def _has_line(self, step: int) -> bool:
        return step in (1, self.total_steps) or step % self.log_every == 0

    def _read_pending(self, at_once: bool) -> Generator[Event, None, bool]:
        """Read losses from the device where it is time to; record and yield those with a line.

        Returns whether the run went back to its last checkpoint.
        """
        for steps in self._pending.take_due(self._has_line, at_once=at_once):
            if (yield from self._read_steps(steps)):
                return True
        return False

    def _read_steps(self, pending: Sequence[PendingStep]) -> Generator[Event, None, bool]:
        """Read steps of which at most the last has a line; see _read_pending."""
        report_stage("waiting for the device")
        read = [(one, float(one.report.loss), float(one.report.grad_norm)) for one in pending]
        shares = self._measure_noise(pending)
        report_stage("")
        for one in pending:
            self.meter.count_batch(one.batch)
        rate, cost = 0.0, StepCost()
        if self._has_line(pending[-1].position.step):
            rate, seconds = self._throughput.read(pending[-1].position.tokens)
            cost = self.meter.read(seconds)
        for (one, loss, norm), share in zip(read, shares, strict=True):
            at = one.position
            if bad := self.guard.judge(one, loss, norm, self.recipe.loss_scaling):
                if self.guard.should_roll_back(bad):
                    yield from self._roll_back(bad, at)
                    return True
                if self.guard.should_stop(bad):
                    self.recorder.wait()
                    raise self.guard.make_error(bad, one.lr, self.saved)
                self.recorder.record(bad)
                yield bad
            if isinstance(bad, Skipped | Overflow):
                continue
            is_left_out = isinstance(bad, Spike) and bad.skipped
            if self.noise is not None and share is not None and not is_left_out:
                self.noise = self.noise.add(share.estimate(norm, one.batch.counts.divisor))
            if self._has_line(at.step):
                update = make_update(
                    *(one, loss, norm),
                    tokens_per_second=rate,
                    cost=cost,
                    data=self.data,
                    coordinator=self.coordinator,
                    noise=self.noise,
                )
                self.recorder.record(update)
                yield update
        return False

    def _measure_noise(self, steps: Sequence[PendingStep]) -> Sequence[RankShare | None]:
        """What all ranks together know of each step's noise; None where it is not measured."""
        if self.noise is None:
            return [None] * len(steps)
        return self.coordinator.add_noise_shares([one.measure_noise() for one in steps])

    def _mark_return(self) -> None:
        """Note the state that the run returns to where it rolls back, besides its tensors."""
        self._return = self.position, replace(self.early_stopping), self.guard.copy(), self.noise

    def _roll_back(self, bad: Bad, at: Position) -> Iterator[Event]:
        """Go back to the last checkpoint, and on with the samples after a bad step, at `at`.

        What was computed after that step is dropped, so that it is the same however late its loss
        was read. Raises NonFinite where going back has not helped, or leaves no samples.
        """
        self.recorder.wait()
        yield from self._announce_saved()
        before, self.early_stopping, guard, self.noise = self._return
        step, skipped, rollbacks = before.step, guard.nonfinite.total, guard.rollbacks
        what = describe_bad(bad)
        rollbacks.require_more(step, skipped, bad.step, what, self.saved)
        rollbacks.add(step, skipped)
        self.position = replace(before, cursor=at.cursor)
        self.data = self.data.continue_from(step, at.cursor)
        self._reader.use_dataset(self.data.dataset)
        size, world_size = len(self.data.dataset.train), self.coordinator.rank_info.world_size
        self.total_steps = count_steps(self.recipe, self.position, size, world_size)
        if not self._has_steps_left():
            raise NonFinite(f"step {bad.step}: {what}, and no samples are left after it")
        cursor, total = at.cursor, self.total_steps
        event = RolledBack(
            step, bad.step, cursor.epoch, cursor.sample, rollbacks.total, total, what
        )
        self._replace_learner()
        self.guard = guard
        self.guard.end_row()
        self._mark_return()
        self._evaluated_step = min(self._evaluated_step, step)
        self._tasked_step = min(self._tasked_step, step)
        self.recorder.roll_back(event, self.position)
        self._throughput.restart(self.position.tokens)
        self.meter.restart()
        yield event

    def _replace_learner(self) -> None:
        """Build the learner anew from the last checkpoint, once the old one has left the memory."""
        if self.rebuild is None:
            raise HermesError("this run cannot roll back: it has no way to build its model anew")
        self._pending.clear()
        self.recorder.use_learner(None)
        self.coordinator.use_learner(None, self.position.step)
        del self.learner
        self.learner = self.rebuild(self.saved)
        self.recorder.use_learner(self.learner)
        self.coordinator.use_learner(self.learner, self.position.step)

    def _save(self) -> Iterator[Event]:
        if earlier := self._unannounced:
            # A save may delete the checkpoint before it, which who is told of it must see.
            with self._throughput.pause(self.meter.add_save):
                self.recorder.wait()
            self._unannounced = None
            yield earlier
        with self._throughput.pause(self.meter.add_save):
            # Ranks whose weights differ must not save: the checkpoint would be of one alone.
            self.coordinator.require_same_weights()
            noise = () if self.noise is None else self.noise.to_numbers()
            path = self.recorder.save(self.position, self.guard.spikes.losses, noise)
            self.saved, self._saved_step = path, self.position.step
            self._mark_return()
            self.coordinator.mark_saved(path)
            self._unannounced = Saved(self.position.step, path)
        yield from self._announce_saved()

    def _announce_saved(self) -> Iterator[Event]:
        """Yield that the last checkpoint is on disk, once, as soon as it is."""
        if self._unannounced and self.recorder.is_saved():
            saved, self._unannounced = self._unannounced, None
            yield saved

    def _are_samples_due(self) -> bool:
        return self.samples is not None and self._is_due(self.samples.options.every)

    def _make_samples(self) -> Iterator[Sample]:
        """Make the samples that are due, in every rank, as none may wait for another's."""
        if self.samples is None or not self._are_samples_due():
            return
        with self._throughput.pause():
            for sample in self.samples.make(self.learner, self.position.step):
                self.recorder.record_sample(sample)
                yield sample

    def _evaluate_tasks(self) -> Generator[Event, None, bool]:
        """Evaluate the tasks and record it, once the step's checkpoint is whole on disk.

        Returns whether the run was asked to stop.
        """
        assert self.tasks is not None, "only tasks can be missing"
        step = self.position.step
        with self._throughput.pause(self.meter.add_save):
            self.recorder.wait()
        with self._throughput.pause():
            yield from self._announce_saved()
            found = self.tasks.evaluate(self.learner, step)
            report_stage("")
        if found is None:
            return True
        self._tasked_step = step
        if isinstance(found, TaskScores):
            self.recorder.record(found)
            yield found
        elif self.tasks.is_new(found):
            yield found
        return self.coordinator.should_stop()

    def _evaluate(self) -> Generator[Event, None, bool]:
        """Evaluate, record and yield it; returns whether the run was asked to stop."""
        step = self.position.step
        with self._throughput.pause(), self.coordinator.expect_evaluation():
            numbers = evaluate_learner(
                self.data,
                self.learner,
                self.coordinator.should_stop,
                has_average=self.recipe.ema > 0,
            )
        if numbers is None:
            return True
        evaluation = Evaluation.from_numbers(step, numbers)
        if not math.isfinite(evaluation.val_loss):
            self.recorder.wait()
            raise NonFinite(f"step {step}: the validation loss is {evaluation.val_loss}")
        self._evaluated_step = step
        self.recorder.record(evaluation)
        self.early_stopping.add(step, evaluation.val_loss)
        yield evaluation
        return self.coordinator.should_stop()
