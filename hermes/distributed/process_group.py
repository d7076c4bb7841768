"""The ranks of a run: which one this process is, and the collectives they agree by.

A backend implements ProcessGroup over torch.distributed or mlx.distributed; a launcher starts the
processes. All ranks make the same calls in the same order.
"""

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from hermes.errors import HermesError
from hermes.formatting import format_count

__all__ = [
    "DEFAULT_TIMEOUT",
    "SINGLE_PROCESS",
    "HasSideGroup",
    "ProcessGroup",
    "RankInfo",
    "SingleProcess",
    "SumsNumbers",
    "WaitsForCompilers",
    "exit_without_teardown",
]


def _to_stderr(line: str) -> None:
    print(f"Error: {line}", file=sys.stderr, flush=True)


# Seconds of silence after which a rank counts as lost, where nobody says otherwise.
DEFAULT_TIMEOUT = 45.0


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process in its run, as the launcher set it.

    local_rank, local_world_size: among the processes of this machine. rendezvous: "host:port" where
    the ranks meet; None where the launcher has told the framework itself. first_timeout: seconds of
    silence after which a rank counts as lost until the first step is done, as it may read, tokenize
    and compile; timeout: the same afterwards. is_timeout_given: whether someone chose `timeout`, so
    that it bounds what may as well be work, too. rendezvous_timeout: seconds within which all ranks
    must arrive. last_words: called with a sentence before a backend ends a process that hangs.
    on_first_step: called once the first step is done.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    rendezvous: str | None = None
    first_timeout: float = 600.0
    timeout: float = DEFAULT_TIMEOUT
    is_timeout_given: bool = True
    rendezvous_timeout: float = 60.0
    last_words: Callable[[str], None] = field(default=_to_stderr, compare=False, repr=False)
    on_first_step: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world_size and 0 <= self.local_rank < self.local_world_size):
            raise HermesError(
                f"rank {self.rank} of {format_count(self.world_size, 'processes', 'process')}, "
                f"{self.local_rank} of {self.local_world_size} on this machine: ranks count from 0 "
                "to below the number"
            )
        limits = (self.first_timeout, self.timeout, self.rendezvous_timeout)
        if min(limits) <= 0:
            raise HermesError(
                f"timeouts must be above 0 seconds, got {', '.join(map(str, limits))}"
            )

    @property
    def work_timeout(self) -> float:
        """Seconds before the first step is done in which a rank may be seen to wait or compute.

        A device that computes, or that meets the others, looks as one that hangs.
        """
        return self.timeout if self.is_timeout_given else self.first_timeout


class ProcessGroup(Protocol):
    """The ranks of a run; every method is a collective, called by all of them.

    Each raises PeerLost where a rank died or was silent for too long.
    """

    rank_info: RankInfo

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all ranks, in float64."""
        ...

    def all_reduce_max(self, number: float) -> float:
        """The largest number of any rank."""
        ...

    def all_gather_text(self, text: str) -> list[str]:
        """The text of every rank, in order; a barrier, too."""
        ...

    def time_all_reduce(self, count: int) -> tuple[float, bool]:
        """Seconds to sum `count` float32 values over all devices, and whether the sum was right."""
        ...

    def diagnostics(self) -> list[str]:
        """Sentences about what will slow or stop these ranks, each with what to do about it."""
        ...

    def mark_first_step_done(self) -> None:
        """Switch from rank_info.first_timeout to rank_info.timeout."""
        ...

    def begin(self) -> None:
        """Start the clock of busy_seconds: this rank begins its share of a step."""
        ...

    def ready(self) -> None:
        """Stop the clock of busy_seconds: what follows waits for the other ranks."""
        ...

    def busy_seconds(self) -> float:
        """Seconds on the device between `begin` and `ready`, summed since the last call.

        Time spent waiting for other ranks is not counted; neither are steps still queued.
        """
        ...

    def history(self) -> str:
        """The last collectives, as the framework recorded them."""
        ...

    def leave(self, sentence: str) -> None:
        """Tell the other ranks why this one ends before them, where the framework can."""
        ...

    def close(self) -> None:
        """Leave the group without waiting for anyone."""
        ...


class SumsNumbers(Protocol):
    """What ranks need to agree on the tensor that is read next."""

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over all ranks, in float64."""
        ...


@runtime_checkable
class HasSideGroup(Protocol):
    """A process group of a split model, whose tensors a second thread gathers."""

    def open_side_group(self) -> SumsNumbers:
        """The same ranks, for that thread; its methods raise what the framework does."""
        ...

    def watch(self, activity: str | None = None) -> AbstractContextManager[None]:
        """A context in which the framework's error about a lost rank becomes PeerLost."""
        ...


@runtime_checkable
class WaitsForCompilers(Protocol):
    """A process group whose ranks may compile at other times than in the first step."""

    def allow_compiling(self) -> AbstractContextManager[None]:
        """A context in which a rank may be silent for as long as in the first step."""
        ...


class SingleProcess:
    """The process group of a run in one process."""

    rank_info = RankInfo()

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Return the numbers: there is one rank."""
        return [float(number) for number in numbers]

    def all_reduce_max(self, number: float) -> float:
        """Return the number: there is one rank."""
        return float(number)

    def all_gather_text(self, text: str) -> list[str]:
        """Return the text alone: there is one rank."""
        return [text]

    def time_all_reduce(self, count: int) -> tuple[float, bool]:
        """Take no time: there is nothing to sum."""
        return 0.0, True

    def diagnostics(self) -> list[str]:
        """Find nothing: no other rank can be slow or lost."""
        return []

    def mark_first_step_done(self) -> None:
        """Do nothing: no other rank can be silent."""

    def begin(self) -> None:
        """Do nothing: there is no other rank to compare with."""

    def ready(self) -> None:
        """Do nothing: there is no other rank to compare with."""

    def busy_seconds(self) -> float:
        """0: there is no other rank to compare with."""
        return 0.0

    def history(self) -> str:
        """Empty: there are no collectives."""
        return ""

    def leave(self, sentence: str) -> None:
        """Do nothing: no other rank has to know."""

    def close(self) -> None:
        """Do nothing: no connections are open."""


SINGLE_PROCESS = SingleProcess()


def exit_without_teardown() -> Callable[[int], None]:
    """Make the process exit without tearing down its interpreter, with a code given later.

    Call this at the start of a program of several ranks, and the returned function with the exit
    code. The process then ends after its exit functions have run. Teardown would race with the
    framework's threads: a thread of gloo that releases a tensor meanwhile aborts the process with
    SIGABRT, "terminate called without an active exception". Before Python 3.14 a thread that asks
    for an interpreter in teardown is unwound, and C++ does not allow that in a destructor
    (pytorch/pytorch#190489).
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
