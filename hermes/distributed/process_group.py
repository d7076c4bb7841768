"""Several processes that train one model: where each stands, and what they ask each other.

What carries the words is the backend's matter (torch.distributed, mlx.distributed); who starts the
processes is the launcher's. All processes make the same calls in the same order.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from hermes.errors import HermesError

__all__ = ["SINGLE_PROCESS", "ProcessGroup", "RankInfo", "SingleProcess", "exit_without_teardown"]


def _to_stderr(line: str) -> None:
    print(f"Error: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class RankInfo:
    """Where a process stands among those of its run, as the launcher said.

    local_rank and local_world_size count those of this machine. rendezvous: "host:port" where they
    meet; None where the framework's launcher told the framework. first_timeout: seconds after which
    a silent process is lost, before the first update is made (compilation, reading); timeout:
    after. rendezvous_timeout: seconds in which all come.
    last_words: is given the sentence with which a backend ends a process that nothing else can end.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    rendezvous: str | None = None
    first_timeout: float = 600.0
    timeout: float = 45.0
    rendezvous_timeout: float = 60.0
    last_words: Callable[[str], None] = field(default=_to_stderr, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world_size and 0 <= self.local_rank < self.local_world_size):
            raise HermesError(
                f"rank {self.rank} of {self.world_size} processes, {self.local_rank} of "
                f"{self.local_world_size} on this machine: ranks count from 0 to below the number"
            )
        limits = (self.first_timeout, self.timeout, self.rendezvous_timeout)
        if min(limits) <= 0:
            raise HermesError(
                f"timeouts must be above 0 seconds, got {', '.join(map(str, limits))}"
            )


class ProcessGroup(Protocol):
    """The processes of a run, seen from one of them; every method is called by all of them.

    Each raises PeerLost where one of them died, or was silent for too long.
    """

    rank_info: RankInfo

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all processes, in float64."""
        ...

    def all_reduce_max(self, number: float) -> float:
        """The largest of every process's number."""
        ...

    def all_gather_text(self, text: str) -> list[str]:
        """Every process's text, by rank; returns when all have come."""
        ...

    def time_all_reduce(self, count: int) -> tuple[float, bool]:
        """Seconds to sum `count` float32 over all processes on their devices; was it right?"""
        ...

    def diagnostics(self) -> list[str]:
        """What will slow these processes or stop them, each with what to do about it."""
        ...

    def mark_first_step_done(self) -> None:
        """The first update is made: from now on a silence of place.timeout is too long."""
        ...

    def begin(self) -> None:
        """All have answered each other, and each begins its own share of an update."""
        ...

    def ready(self) -> None:
        """This process's own share of the update is computed; what comes waits for the others."""
        ...

    def busy_seconds(self) -> float:
        """Seconds from `begin` to `ready`, on the device, of the updates since it was last asked.

        Of a device that is ahead of this process, those updates that it has finished.
        """
        ...

    def history(self) -> str:
        """What was asked of the others last, as the framework wrote it down."""
        ...

    def leave(self, sentence: str) -> None:
        """Tell the others why this process ends before them, where the framework can."""
        ...

    def close(self) -> None:
        """Part, without waiting for anyone."""
        ...


class SingleProcess:
    """One process."""

    rank_info = RankInfo()

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """The numbers."""
        return [float(number) for number in numbers]

    def all_reduce_max(self, number: float) -> float:
        """The number."""
        return float(number)

    def all_gather_text(self, text: str) -> list[str]:
        """The text."""
        return [text]

    def time_all_reduce(self, count: int) -> tuple[float, bool]:
        """Nothing to sum."""
        return 0.0, True

    def diagnostics(self) -> list[str]:
        """None."""
        return []

    def mark_first_step_done(self) -> None:
        """Nobody to wait for."""

    def begin(self) -> None:
        """Nobody else begins."""

    def ready(self) -> None:
        """Nobody waits."""

    def busy_seconds(self) -> float:
        """Nobody to compare with."""
        return 0.0

    def history(self) -> str:
        """Nothing was asked."""
        return ""

    def leave(self, sentence: str) -> None:
        """Nobody to tell."""

    def close(self) -> None:
        """Nothing to part from."""


SINGLE_PROCESS = SingleProcess()


def exit_without_teardown() -> Callable[[int], None]:
    """Called where a program of several processes begins; what it gives is told the exit code.

    Once told, the process ends with that code when its exit functions have run, and its interpreter
    is not taken apart. That would happen beside the framework's threads: one of gloo's that lets go
    of a tensor meanwhile ends the process with SIGABRT, "terminate called without an active
    exception". Before Python 3.14 a thread that wants an interpreter which is being taken apart is
    unwound, and C++ allows none of that in a destructor (pytorch/pytorch#190489).
    """
    codes: list[int] = []

    def end() -> None:
        if not codes:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # it is closed, or nobody reads it
                stream.flush()
        os._exit(codes[-1])

    atexit.register(end)
    return codes.append
