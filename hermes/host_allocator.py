"""What glibc does with memory that a training step frees on a CPU: keep it for the next step.

By default each array of 32 MiB and more is memory of its own, whose pages the kernel zeroes and
maps one after another, and the next one's again; and what is free at the end of the heap is given
back, to be mapped again: up to a tenth of the processor time of a step (specs/backend.md).
"""

import ctypes
import os
import weakref

__all__ = ["keep_freed_memory", "return_freed_memory"]

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")
TUNABLES = ("malloc.mmap_threshold", "malloc.trim_threshold", "malloc.mmap_max")


def keep_freed_memory(owner: object) -> bool:
    """Let glibc keep what is freed for what comes next; whether it does.

    What nothing uses then is given back once `owner` is collected. The user's own setting is left
    as it is, and so is another C library.
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
    weakref.finalize(owner, return_freed_memory)
    return True


def return_freed_memory() -> None:
    """Give the pages of glibc's heaps that nothing uses back to the system; nothing elsewhere."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
