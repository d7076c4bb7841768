"""What glibc does with memory that a training step frees on a CPU: keep it for the next step.

By default each array of 32 MiB and more is memory of its own, whose pages the kernel zeroes and
maps one after another, and the next one's again; and what is free at the end of the heap is given
back, to be mapped again: up to a tenth of the processor time of a step (specs/backend.md).
"""

import ctypes
import os
import weakref

__all__ = ["keep_freed_memory", "return_freed_memory"]

# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_MMAP_MAX of malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
# What they are without us, the thresholds as they come to be once an array of 32 MiB was freed.
DEFAULTS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}
_owners: "list[weakref.finalize[..., object]]" = []  # of the process, as glibc's settings are
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")
TUNABLES = ("malloc.mmap_threshold", "malloc.trim_threshold", "malloc.mmap_max")


def keep_freed_memory(owner: object) -> bool:
    """Let glibc keep what is freed for what comes next; whether it does.

    Until `owner` is collected, and the others that have asked: what nothing uses then is given
    back, and the process goes on by glibc's own settings. The user's setting is left as it is, and
    so is another C library.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(name in tunables for name in TUNABLES) or any(name in os.environ for name in VARIABLES):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # No array is mapped by itself, and the end of the heap, however long, is not given back.
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, -1)
    _owners.append(weakref.finalize(owner, _let_go))
    return True


def _let_go() -> None:
    """Give back what is kept, and keep no more where no owner is left."""
    _owners[:] = [one for one in _owners if one.alive]
    if not _owners:
        library = ctypes.CDLL(None)
        for name, value in DEFAULTS.items():
            library.mallopt(name, value)
    return_freed_memory()


def return_freed_memory() -> None:
    """Give the pages of glibc's heaps that nothing uses back to the system; nothing elsewhere."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
