"""Machines that runs are planned for: memory, speed of matrix products, and power.

Peak speeds are of dense products with float32 accumulation, as the makers publish them (NVIDIA
prints some with sparsity, which is twice as much). A run reaches a part of that: 46 % is published
for a large one (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, table 3), 30 to 45 % is usual for
small models; UTILIZATION is what a plan assumes where nothing was measured.
"""

import time
from dataclasses import dataclass

import numpy as np

from hermes.errors import HermesError, suggest_nearest

__all__ = ["HARDWARE", "UTILIZATION", "Hardware", "find_hardware", "measure_flops"]

UTILIZATION = 0.35
GB = 10**9


@dataclass(frozen=True)
class Hardware:
    """A device. flops: per second, by precision. watts: its limit under load."""

    memory: int
    flops: dict[str, float]
    watts: float
    source: str
    backend: str = "torch"
    device: str = "cuda"


def _make_flops(bfloat16: float, tf32: float, float32: float) -> dict[str, float]:
    speeds = {"bfloat16": bfloat16, "float16": bfloat16, "tf32": tf32, "float32": float32}
    return {name: speed * 1e12 for name, speed in speeds.items()}


HARDWARE = {
    "h200": Hardware(
        141 * GB, _make_flops(989, 494, 67), 700, "NVIDIA H200 Tensor Core GPU datasheet, SXM"
    ),
    "h100": Hardware(
        80 * GB, _make_flops(989, 494, 67), 700, "NVIDIA H100 Tensor Core GPU datasheet, SXM"
    ),
    "a100": Hardware(
        80 * GB, _make_flops(312, 156, 19.5), 400, "NVIDIA A100 Tensor Core GPU datasheet, SXM"
    ),
    "l4": Hardware(24 * GB, _make_flops(121, 60, 30.3), 72, "NVIDIA L4 datasheet"),
    "rtx4090": Hardware(
        24 * GB, _make_flops(165, 82.6, 82.6), 450, "NVIDIA Ada GPU Architecture whitepaper, app. A"
    ),
    # Apple publishes no speed: 40 cores of 128 lanes, a multiply and an add each, at 1.38 GHz.
    "m3-max": Hardware(
        128 * GB,
        _make_flops(14.1, 14.1, 14.1),
        60,
        "40 cores x 128 lanes x 2 x 1.38 GHz; Apple publishes neither speed nor power",
        "mlx",
        "gpu",
    ),
}


def find_hardware(name: str) -> Hardware:
    """A device of the table. Raises HermesError."""
    if name not in HARDWARE:
        raise HermesError(
            f"hardware {name!r} is unknown{suggest_nearest(name, HARDWARE)}; known are "
            f"{', '.join(HARDWARE)}"
        )
    return HARDWARE[name]


def measure_flops(seconds: float = 0.2) -> float:
    """Measure the speed of this machine's processors: float32 products of 512 x 512, per second."""
    a = np.ones((512, 512), np.float32)
    a @ a
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        a @ a
        count += 1
    return 2 * 512**3 * count / (time.perf_counter() - begin)
