"""The laws that hold when a process or a machine dies while it saves; tests and planted defects
share them.
"""

import random
import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Lock

from hermes.checkpoint import Disk, RetentionPolicy, SkippedCheckpoint, open_checkpoints
from hermes.checkpoint.retention import prune, sweep
from tests.checkpoint.powerloss import after_power_loss, read_tree, write_tree
from tests.checkpoint.support import (
    logged_disk,
    quick_folder,
    require_equal,
    save_at,
)


def go_on(run, disk, workers=1):
    """What a run does between two saves at step 1 and step 3, with all but the newest deleted."""
    for step in (2, 3):
        path = save_at(run, step, disk=disk, workers=workers)
        prune(run, RetentionPolicy(last=1), path, disk=disk)


def record(workers=1):
    """The operations of `go_on`, the tree before it, and after how many each save had returned."""
    with quick_folder() as folder:
        run = Path(folder) / "run"
        save_at(run, 1)
        before = read_tree(run)
        disk, operations = logged_disk()
        returned = [(0, 1)]
        for step in (2, 3):
            path = save_at(run, step, disk=disk, workers=workers)
            returned.append((len(operations), step))
            prune(run, RetentionPolicy(last=1), path, disk=disk)
        return operations, before, run, returned


def require_found(run, least):
    """A whole checkpoint of step `least` or later is there, it is what was saved, and whatever
    bears a checkpoint's name is one.
    """
    found = list(open_checkpoints(run))
    assert found, "no checkpoint is left"
    assert not [skip.reason for skip in found if isinstance(skip, SkippedCheckpoint)]
    step = found[0].progress.step
    assert step >= least, f"step {step} was found, step {least} was saved"
    require_equal(found[0], step)
    return step


def survives_power_loss(states, seed, workers=1):
    """Whatever the power failure leaves, what a save returned for is found."""
    operations, before, run, returned = record(workers)
    chance = random.Random(seed)
    for _ in range(states):
        crash = chance.randint(0, len(operations))
        tree = after_power_loss(operations, before, run, crash, chance)
        least = max(step for at, step in returned if at <= crash)
        with quick_folder() as folder:
            write_tree(tree, Path(folder) / "run")
            require_found(Path(folder) / "run", least)


class Killed(BaseException):
    """Ends what is done after the moment of a kill, of which nothing is looked at any more."""


class Killer:
    """Copies the run as the n-th operation finds it, half done if it is a torn write, and ends.

    What a process that is killed has given the system stays there, and nothing is done after it, no
    `finally` either: the copy is what a kill at that moment leaves. killed: whether it came to it.
    """

    def __init__(self, run, last, torn, copy):
        self.run, self.last, self.torn, self.copy = run, last, torn, copy
        self.numbers, self.once = count(), Lock()
        self.killed = False

    def __call__(self, operation):
        if next(self.numbers) < self.last:
            return
        with self.once:  # the run may save in several threads
            if not self.killed:
                shutil.copytree(self.run, self.copy)
                self.killed = True
                if self.torn and operation.kind == "write":
                    with (self.copy / operation.path.relative_to(self.run)).open("ab") as file:
                        file.write(bytes(operation.data)[: len(operation.data) // 2])
        raise Killed


def survives_kill(point, torn, workers=1):
    """Killed before operation `point`, a run is found whole, and goes on; True if it was killed."""
    with quick_folder() as folder:
        run, copy = Path(folder) / "run", Path(folder) / "copy" / "run"
        save_at(run, 1)
        killer = Killer(run, point, torn, copy)
        with suppress(Killed):
            go_on(run, Disk(killer), workers)
        left = copy if killer.killed else run
        step = require_found(left, 1 if killer.killed else 3)
        sweep(left)
        assert {p.name.split("-")[0] for p in left.iterdir()} == {"step"}, "leftovers are gone"
        if step < 3:
            save_at(left, step + 1)
            require_found(left, step + 1)
        return killer.killed
