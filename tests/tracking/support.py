"""A tracker of its own, which remembers, and may fail or be slow."""

import threading

from hermes.tracking.tracker import TrackedRun
from tests.waiting import PATIENCE


class Remembering:
    """Remembers what it is told."""

    rewinds = False

    def __init__(self, run):
        self.run, self.logged, self.texts, self.ended = run, [], [], None

    def log(self, step, values):
        self.logged.append((step, dict(values)))

    def log_text(self, step, name, text):
        self.texts.append((step, name, text))

    def finish(self, finished):
        self.ended = finished


class Rewinding(Remembering):
    """May be told a step again."""

    rewinds = True


class Failing(Remembering):
    """Fails at its second line."""

    def log(self, step, values):
        super().log(step, values)
        if len(self.logged) == 2:
            raise ConnectionError("the server is gone\nand more")


class Hanging(Remembering):
    """Hangs until the test is over."""

    over = threading.Event()

    def log(self, step, values):
        self.over.wait(10 * PATIENCE)


def keep(kind, made):
    """A maker of trackers that keeps those it makes."""

    def make(run):
        made.append(kind(run))
        return made[-1]

    return make


def describe_run(folder, step=0):
    return TrackedRun("0123456789abcdef", folder.name, "tests", folder, step, {"lr": 0.1})
