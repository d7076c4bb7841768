"""Signs that a rank works before its first step is done, and does not hang.

Until then a rank may read, tokenize and compile for long, so silence alone says nothing. A thread
of it looks for signs of work instead. None is there in a call that blocks, nor in a loop of Python
that comes by the same places again and again.
"""

import dis
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

from hermes.distributed.processor_time import read_descendants_seconds
from hermes.process_memory import read_process_peak
from hermes.stages import get_last_report

__all__ = ["BEAT", "BUSY", "FIRST_BEAT", "OTHERS", "RANKS", "Beat", "SignsOfWork", "count_beats"]

SAMPLE = 0.1  # seconds between two looks at where the watched thread is
BEAT = 1.0  # seconds between two counts
BUSY = 0.02  # of a processor: what a thread that sleeps and looks again does not use
GROWTH = 1.01  # of memory that is more than that of the same work done again
READ = 100_000  # bytes a second that only work reads or writes
MOST_PLACES = 200_000
# Modules in whose calls a rank waits for the others, or for what it has computed itself.
WAITING = (
    *("hermes_torch.process_group", "hermes_torch.sharding", "torch.distributed"),
    *("torch.autograd", "torch.nn.parallel", "hermes_mlx.process_group", "hermes_mlx.learner"),
    # MLX computes what is asked for, gradients of the others too, where the first of it is needed.
    *("hermes_mlx.optimizer", "hermes_mlx.compiler"),
)
# Where processor time says nothing: a ring of MLX, and NCCL, look for the others in a loop.
ONLY_WAITING = (
    *("hermes_torch.process_group", "torch.distributed"),
    *("hermes_mlx.process_group", "hermes_mlx.learner", "hermes_mlx.optimizer"),
)
RANKS, OTHERS = "ranks", "others"  # what a rank waits for


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself once in a while, before its first step is done.

    beats: how often it has said so. signs: how often there was a sign of work. waits: RANKS where
    it is in a call that waits for the other ranks, OTHERS where it waits for another process,
    else empty. place: what it does, and where in the code. calls: in how many periods one call
    outside Python computed, and nothing else was to be seen. computed: in how many it computed.
    """

    beats: int
    signs: int
    waits: str
    place: str
    calls: int = 0
    computed: int = 0


FIRST_BEAT = Beat(0, 0, "", "the start")  # of a rank that has said nothing yet


def count_beats(signs: "SignsOfWork", thread: int, ended: threading.Event) -> Iterator[int]:
    """Look at a thread of this process until it or the watch has ended; 1, 2 .. once in a BEAT."""
    beats, counted_at = 0, time.monotonic()
    while not ended.wait(SAMPLE):
        # Private, but there in every version, and what faulthandler prints.
        frame = sys._current_frames().get(thread)
        if frame is None:
            return
        signs.add_frame(frame)
        del frame  # or it keeps alive what the thread has left
        now = time.monotonic()
        if now - counted_at >= BEAT:
            signs.add_period(now - counted_at)
            beats, counted_at = beats + 1, now
            yield beats


class SignsOfWork:
    """Counts signs of work of a thread: `add_frame` ten times a second, `add_period` once.

    There is one where the stage or how far it is changes; where the thread comes to a place in the
    code for the first time; where the process needs more memory than ever, or reads or writes;
    where a process that it started computes, as compilers do. `calls` counts the periods without
    any in which one call computed that is no Python: it may be at work, or never end. `computed`
    counts all in which this process computed and does not only wait by its nature.
    """

    def __init__(self, descendants: Callable[[], float] = read_descendants_seconds) -> None:
        self.number, self.calls, self.computed = 0, 0, 0
        self.waits, self.place, self._only_waits = "", "", False
        self._places: set[tuple[CodeType, int]] = set()
        self._report, self._memory, self._blocks = get_last_report(), 0, 0
        self._leaf: tuple[CodeType, int] | None = None
        self._same_leaf = True
        self._read_descendants = descendants
        self._own, self._others, self._bytes = _read_own_seconds(), descendants(), _count_bytes()

    def add_frame(self, frame: FrameType) -> None:
        """Look at where the thread is."""
        leaf = frame.f_code, frame.f_lasti
        self._same_leaf = self._same_leaf and leaf == self._leaf
        self._leaf = leaf
        name, stage = frame.f_globals.get("__name__") or "", get_last_report()[0]
        others = OTHERS if stage.startswith("waiting for ") else ""
        self.waits = RANKS if name.startswith(WAITING) else others
        self._only_waits = name.startswith(ONLY_WAITING)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"
        self.place = f"{stage}: {where}" if stage else where
        before = len(self._places)
        one: FrameType | None = frame
        while one is not None:
            self._places.add((one.f_code, one.f_lasti))
            one = one.f_back
        self.number += len(self._places) > before
        if len(self._places) > MOST_PLACES:
            self._places.clear()

    def add_period(self, seconds: float) -> None:
        """Look at what has changed in the seconds since the last call."""
        read = _count_bytes()  # before this itself reads a file for each process of the machine
        report, memory, blocks = get_last_report(), read_process_peak(), sys.getallocatedblocks()
        own, others = _read_own_seconds(), self._read_descendants()
        computes = own - self._own >= BUSY * seconds
        signs = (
            report != self._report,
            memory > GROWTH * self._memory,
            blocks > GROWTH * self._blocks,
            others - self._others >= BUSY * seconds,
            read - self._bytes >= READ * seconds,
        )
        self.number += any(signs)
        is_call = computes and self._same_leaf and not self._only_waits and self._is_in_call()
        self.calls += is_call and not any(signs)
        self.computed += computes and not self._only_waits
        self._memory, self._blocks = max(self._memory, memory), max(self._blocks, blocks)
        self._report, self._own, self._others, self._bytes = report, own, others, _count_bytes()
        self._same_leaf = True

    def get_beat(self, beats: int) -> Beat:
        """What there is to say now, for the time of that number."""
        return Beat(beats, self.number, self.waits, self.place, self.calls, self.computed)

    def _is_in_call(self) -> bool:
        """Whether the innermost frame is in a call, and not at a jump that closes a loop."""
        if self._leaf is None:
            return False
        code, at = self._leaf
        return at >= 0 and "JUMP" not in dis.opname[code.co_code[at]]


def _read_own_seconds() -> float:
    """Seconds that this process has computed, but for the thread that calls this."""
    return time.process_time() - time.thread_time()


def _count_bytes() -> int:
    """Bytes that this process has read and written; 0 where the system does not count them."""
    try:
        lines = Path("/proc/self/io").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines[:2])
