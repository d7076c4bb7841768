"""The training loop: updates, and what is logged, saved and evaluated between them.

It knows a learner, a source of batches and three things it may be asked to do; files, backends and
terminals are its callers' matter. It yields what happened and prints nothing. A loss stays on the
device until a line of it is due, so that the device never waits for the host.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hermes.data import Cursor
from hermes.errors import NonFinite
from hermes.interface import Batch, Learner, StepReport
from hermes.recipe import Recipe
from hermes.training.events import Evaluation, Event, Pace, Position, Saved, Stopped, Update
from hermes.training.schedule import compute_lr

__all__ = [
    "LoopConfig",
    "default_log_every",
    "due",
    "updates",
]


@dataclass(frozen=True)
class LoopConfig:
    """All that the loop needs.

    batches(cursor): one update's batch and the cursor behind it. epochs_done(cursor): a number of
    epochs. record(event): write its line. save(position): begin to write a checkpoint, after every
    line so far; whole(): whether it is on disk; settle(): wait until it is. evaluate(step): the
    loss on the held-out text, or None if stop() said so half way; left at None where nothing is
    held out. stop(): polled after every update. measure(batch, report): what else a logged update's
    line says. pace(): whose share takes longest, of several processes. saved: the checkpoint of
    `position`, if there is one; evaluated: `position` has its evaluation, if one is due there.
    """

    learner: Learner
    recipe: Recipe
    total_steps: int
    log_every: int
    batches: Callable[[Cursor], tuple[Batch, Cursor]]
    epochs_done: Callable[[Cursor], float]
    record: Callable[[Update | Evaluation], None]
    save: Callable[[Position], Path]
    is_saved: Callable[[], bool]
    wait: Callable[[], None]
    evaluate: Callable[[int], Evaluation | None] | None = None
    measure: Callable[[Batch, StepReport], Mapping[str, float]] = lambda batch, report: {}
    pace: Callable[[], Pace | None] = lambda: None
    position: Position = field(default_factory=Position)
    saved: Path | None = None
    evaluated: bool = False
    stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.perf_counter


def default_log_every(total_steps: int) -> int:
    """Every update of a run of fewer than 10,000, else every tenth."""
    return 1 if total_steps < 10_000 else 10


def due(step: int, every: int, total_steps: int) -> bool:
    """Whether what is done `every` so many updates, and at the end, is done after update `step`."""
    return step > 0 and (step == total_steps or (every > 0 and step % every == 0))


def updates(plan: LoopConfig) -> Iterator[Event]:
    """Train from plan.position to plan.total_steps, yielding what happens.

    Ends with Stopped where it was stopped before the end. Raises NonFinite at the first loss or
    gradient that is not a number: the backend did not apply that update, nothing is saved after it,
    and the last checkpoint stays.
    """
    return TrainingLoop(plan).events()


@dataclass(frozen=True)
class PendingStep:
    """An update whose numbers may still be on the device."""

    report: StepReport
    position: Position
    lr: float
    batch: Batch


class TrainingLoop:
    """The state of one call of `updates`."""

    def __init__(self, plan: LoopConfig):
        self.plan = plan
        self.at = plan.position
        self.saved = plan.saved
        self.saved_step = plan.position.step if plan.saved else -1
        self.untold: Saved | None = None
        self.evaluated_step = plan.position.step if plan.evaluated else -1
        self.pending: list[PendingStep] = []
        self.clock_tokens, self.clock_start = self.at.tokens, plan.clock()

    def events(self) -> Iterator[Event]:
        plan, stopping = self.plan, False
        if self._owes():
            # Stopped after saving this step and before evaluating it.
            stopping = yield from self._evaluate()
        while self.at.step < plan.total_steps and not stopping:
            self._step()
            yield from self._tell()
            step, stopping = self.at.step, plan.stop()
            saves, evaluates = self._due(plan.recipe.save_every), self._evaluates()
            if step == 1 or stopping or saves or evaluates or self._due(plan.log_every):
                yield from self._read()
            # A checkpoint carries its own evaluation; only the last is safe on disk before it.
            if step == plan.total_steps:
                yield from self._save()
            if evaluates and not stopping:
                stopping = yield from self._evaluate()
            if (saves or stopping) and self.saved_step != step:
                yield from self._save()
        plan.wait()
        yield from self._tell()
        if stopping and (self.at.step < plan.total_steps or self._owes()):
            yield Stopped(self.at.step)

    def _due(self, every: int) -> bool:
        return due(self.at.step, every, self.plan.total_steps)

    def _evaluates(self) -> bool:
        return self.plan.evaluate is not None and self._due(self.plan.recipe.eval_every)

    def _owes(self) -> bool:
        return self._evaluates() and self.evaluated_step != self.at.step

    def _step(self) -> None:
        plan, at = self.plan, self.at
        batch, cursor = plan.batches(at.cursor)
        lr = compute_lr(plan.recipe, at.step, plan.total_steps)
        report = plan.learner.step(batch, lr)
        self.at = Position(at.step + 1, at.tokens + batch.counts.targets, cursor)
        self.pending.append(PendingStep(report, self.at, lr, batch))

    def _read(self) -> Iterator[Update]:
        """Bring the pending numbers to the host; yield and record those whose line is due."""
        plan = self.plan
        made, self.pending = self.pending, []
        read = [(one, float(one.report.loss), float(one.report.grad_norm)) for one in made]
        rate = self._rate()
        for one, loss, norm in read:
            step = one.position.step
            self._check(step, loss, norm, one.lr)
            if step in (1, plan.total_steps) or step % plan.log_every == 0:
                epoch = round(plan.epochs_done(one.position.cursor), 6)
                tokens = one.position.tokens
                others = plan.measure(one.batch, one.report)
                update = Update(step, epoch, tokens, loss, one.lr, norm, round(rate, 1), others)
                if pace := plan.pace():
                    update = replace(
                        update, slowest_rank=pace.slowest, slowest_over_mean=pace.over_mean
                    )
                plan.record(update)
                yield update

    def _check(self, step: int, loss: float, norm: float, lr: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self.plan.wait()
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
        kept = f"the last good checkpoint is {self.saved}" if self.saved else "nothing was saved"
        raise NonFinite(
            f"step {step}: {what} at learning rate {lr:g}, so training stopped; {kept}; "
            "try a lower --lr or a longer --warmup-steps"
        )

    def _rate(self) -> float:
        """Targets per second since the last call, without the time of saving and evaluating."""
        now = self.plan.clock()
        made, spent = self.at.tokens - self.clock_tokens, now - self.clock_start
        self.clock_tokens, self.clock_start = self.at.tokens, now
        return made / spent if spent > 0 else 0.0

    def _save(self) -> Iterator[Event]:
        began = self.plan.clock()
        path, earlier = self.plan.save(self.at), self.untold
        self.saved, self.saved_step = path, self.at.step
        self.untold = Saved(self.at.step, path)
        self.clock_start += self.plan.clock() - began
        if earlier:
            yield earlier  # a save waits for the one before
        yield from self._tell()

    def _tell(self) -> Iterator[Event]:
        """Say that the last checkpoint is on disk, once it is."""
        if self.untold and self.plan.is_saved():
            told, self.untold = self.untold, None
            yield told

    def _evaluate(self) -> Generator[Event, None, bool]:
        """Yield the evaluation of this step; the value says whether it was stopped half way."""
        assert self.plan.evaluate is not None, "asked only where something is held out"
        began = self.plan.clock()
        done = self.plan.evaluate(self.at.step)
        self.clock_start += self.plan.clock() - began
        if done is None:
            return True
        if not math.isfinite(done.val_loss):
            self.plan.wait()
            raise NonFinite(f"step {done.step}: the validation loss is {done.val_loss}")
        self.evaluated_step = self.at.step
        self.plan.record(done)
        yield done
        return self.plan.stop()
