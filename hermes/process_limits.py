"""The limits of this process's memory and files, which `ulimit` sets, and what they leave."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessLimit", "count_held_files", "count_thread_room", "list_process_limits"]

UNLIMITED = 1 << 60
MOST_HELD = 1024  # files of one kind, however many the limit allows
# By option of `ulimit`: the limit of getrlimit(2), and which number of /proc/self/statm it bounds.
# -v bounds addresses, -d what of them is private and writable, which memory of one's own is.
KINDS = (
    ("ulimit -v", resource.RLIMIT_AS, 0),
    ("ulimit -d", resource.RLIMIT_DATA, 5),
)
# What a limit counts of a thread: its stack, and of addresses the arena that glibc reserves for it.
STACK, ARENA = 8 << 20, 64 << 20
THREAD_BYTES = {"ulimit -v": STACK + ARENA, "ulimit -d": STACK}
# That a run starts, besides one for each core: on two cores 10 (measured with mlx 0.32.4).
RUN_THREADS = 8


@dataclass(frozen=True)
class ProcessLimit:
    """A limit of this process's memory, in bytes. name: what sets it; used: what it counts."""

    name: str
    limit: int
    used: int

    @property
    def left(self) -> int:
        """Bytes that may still be asked for."""
        return max(self.limit - self.used, 0)


def list_process_limits() -> list[ProcessLimit]:
    """List the limits that are set. What is used is 0 where the system does not say."""
    found = []
    for name, kind, field in KINDS:
        limit, _ = resource.getrlimit(kind)
        if 0 <= limit < UNLIMITED:
            found.append(ProcessLimit(name, limit, _read_pages(field)))
    return found


def count_thread_room(limit: str) -> int:
    """Bytes that the limit of this name counts of the threads that a run has yet to start."""
    return THREAD_BYTES.get(limit, 0) * (RUN_THREADS + (os.cpu_count() or 1))


def count_held_files() -> int:
    """How many files of one kind may be held open: a share of `ulimit -n`, which Macs set to 256.

    There may be four kinds: shards and their indexes, to train on and to validate on.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(max(limit // 8, 4), MOST_HELD) if limit >= 0 else MOST_HELD


def _read_pages(field: int) -> int:
    try:
        numbers = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return int(numbers[field]) * resource.getpagesize()
    except (OSError, ValueError, LookupError):
        return 0
