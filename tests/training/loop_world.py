"""What surrounds a training loop, in one object that only counts, for tests of the loop alone."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hermes.distributed.process_group import SINGLE_PROCESS
from hermes.interface import Batch, StepReport
from hermes.recipe import Recipe
from hermes.training.coordination import RankCoordinator
from hermes.training.loop import TrainingLoop
from hermes.training.training_data import TrainingData


class Lazy:
    """A number on a device, which notes when it is read."""

    def __init__(self, value, read, wait=lambda: None):
        self.value, self.read, self.wait = value, read, wait

    def __float__(self):
        self.wait()
        self.read.append(self.value)
        return float(self.value)


@dataclass
class World:
    """A learner, a dataset and a recorder at once, writing down what the loop asks of it."""

    losses: dict = field(default_factory=dict)
    norms: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    read: list = field(default_factory=list)
    made: int = 0
    time: float = 0.0
    done: float = 0.0
    stop_after: int = 10**9
    saved: bool = True
    val_loss: float | None = 2.5
    failure: Exception | None = None
    runs_ahead: bool = False
    train, held_out = range(10), range(2)

    def step(self, batch, lr):
        """Takes a second; on a device that runs ahead, whoever reads its loss waits for that."""
        self.made += 1
        self.done = self.time + 1.0 if not self.runs_ahead else max(self.time, self.done) + 1.0
        self.time = self.time if self.runs_ahead else self.done
        self.log.append(f"step {self.made}")
        wait = partial(self.wait_until, self.done)
        loss = Lazy(self.losses.get(self.made, 100 + self.made), self.read, wait)
        norm = Lazy(self.norms.get(self.made, 1.0), [])
        return StepReport(self.made, loss, norm, runs_ahead=self.runs_ahead)

    def wait_until(self, time):
        self.time = max(self.time, time)

    def draw_batch(self, cursor, **layout):
        targets = np.ones((1, 2, 4), np.int32)
        rows = np.zeros((1, 2), np.uint32)
        return Batch(targets, targets, rows), cursor.advance(2, 10)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.log.append("close")

    def record(self, event):
        self.log.append(f"record {type(event).__name__} {event.step}")

    def save(self, position, losses=(), noise=()):
        self.time += 50.0
        self.log.append(f"save {position.step}")
        return Path(f"step-{position.step}")

    def is_saved(self):
        return self.saved

    def wait(self):
        if self.failure:
            raise self.failure
        self.log.append("wait")
        self.saved = True

    def evaluate(self, model, stop):
        self.time += 70.0
        self.log.append(f"evaluate {self.made}")
        return None if self.val_loss is None else {"val_loss": self.val_loss}

    def run(self, total, *, log_every=1, evaluates=True, recipe=(), **position):
        """The events of a run to `total` steps."""
        self.held_out = range(2) if evaluates else range(0)
        coordinator = RankCoordinator(SINGLE_PROCESS, self, lambda: self.made >= self.stop_after)
        loop = TrainingLoop(
            learner=self,
            recipe=Recipe(**{"save_every": 0, **dict(recipe)}),
            data=TrainingData(self, self, self.evaluate),
            recorder=self,
            coordinator=coordinator,
            total_steps=total,
            log_every=log_every,
            clock=lambda: self.time,
            **position,
        )
        self.made = loop.position.step
        return loop.run()
