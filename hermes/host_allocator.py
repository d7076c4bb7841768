"""What glibc does with memory that a training step frees on a CPU: keep it for the next step.

By default each array of 32 MiB and more is memory of its own, whose pages the kernel zeroes and
maps one after another, and the next one's again; and what is free at the end of the heap is given
back, to be mapped again: up to a tenth of the processor time of a step (specs/backend.md).

Kept memory is one heap, in which what stays cuts what is free into pieces that the next arrays do
not fit. Compilers and imports leave much that stays; so the first step, in which they run, has its
arrays outside of the heap.
"""

import ctypes
import os
import weakref

__all__ = ["keep_freed_memory", "map_large_arrays"]

# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_MMAP_MAX of malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
# What they are without us, the thresholds as they come to be once an array of 32 MiB was freed.
DEFAULTS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}
LEAST_MAPPED = 128 << 10  # bytes of what has memory of its own in a first step
_owners: "list[weakref.finalize[..., object]]" = []  # of the process, as glibc's settings are
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")
TUNABLES = ("malloc.mmap_threshold", "malloc.trim_threshold", "malloc.mmap_max")


def map_large_arrays(owner: object) -> bool:
    """Let each array be memory of its own until keep_freed_memory; whether it is.

    Until `owner` is collected, and the others that have asked: what nothing uses then is given
    back, and the process goes on by glibc's own settings. The user's setting is left as it is, and
    so is another C library.
    """
    return _set(owner, {MMAP_MAX: DEFAULTS[MMAP_MAX], MMAP_THRESHOLD: LEAST_MAPPED})


def keep_freed_memory(owner: object) -> bool:
    """Let glibc keep what is freed for what comes next; whether it does.

    What is free already is given back. For how long, and where not: as map_large_arrays.
    """
    return_freed_memory()
    # No array is mapped by itself, and the end of the heap, however long, is not given back.
    return _set(owner, {MMAP_MAX: 0, TRIM_THRESHOLD: -1})


def _set(owner: object, settings: dict[int, int]) -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if any(name in tunables for name in TUNABLES) or any(name in os.environ for name in VARIABLES):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    for name, value in settings.items():
        library.mallopt(name, value)
    held = [alive[0] for alive in (one.peek() for one in _owners) if alive]
    if not any(one is owner for one in held):
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
