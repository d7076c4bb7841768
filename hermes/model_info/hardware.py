"""Machines that runs are planned for, and how fast this one multiplies matrices.

A run reaches a part of its device's peak rate: 46 % is published for a large one (Chowdhery et al.
2022, PaLM, arXiv:2204.02311, table 3), 30 to 45 % is usual for small models; UTILIZATION is what a
plan assumes where nothing was measured.
"""

import time

import numpy as np

from hermes.errors import HermesError, suggest_nearest
from hermes.model_info.datasheets import BY_SHORT_NAME, Datasheet

__all__ = ["UTILIZATION", "find_hardware", "measure_flops"]

UTILIZATION = 0.35


def find_hardware(name: str) -> Datasheet:
    """A device of the table. Raises HermesError."""
    if name not in BY_SHORT_NAME:
        hint = suggest_nearest(name, BY_SHORT_NAME) or f"; known are {', '.join(BY_SHORT_NAME)}"
        raise HermesError(f"hardware {name!r} is unknown{hint}")
    return BY_SHORT_NAME[name]


def measure_flops(seconds: float = 0.2) -> float:
    """Measure the speed of this machine's processors: float32 products of 512 x 512, per second."""
    a = np.ones((512, 512), np.float32)
    a @ a
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        a @ a
        count += 1
    return 2 * 512**3 * count / (time.perf_counter() - begin)
