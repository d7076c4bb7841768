"""An optimised BLAS for MLX on Linux, borrowed from an installed torch.

MLX's wheel for Linux calls `sgemm_` and `dgemm_` through the dynamic linker, so a library that
exports both and is loaded globally before it takes their place. torch itself is not imported.
Without one MLX computes the same, more slowly.
"""

import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPIN = "GOMP_SPINCOUNT"
# How often a thread without work looks for some before it sleeps: about a tenth of a millisecond.
# By default 300,000 times, which takes the processor from MLX's own thread on a machine that
# computes something else: a product's threads then wait for each other for whole time slices.
SHORT_SPIN = "10000"


@contextmanager
def shorten_spinning() -> Iterator[None]:
    """A context in which OpenMP, if it is loaded there, is told to spin briefly.

    Nothing is told where the user has. OpenMP reads the environment once, so that it is left as it
    was, and other programs that are started have their own way.
    """
    if SPIN in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ[SPIN] = SHORT_SPIN
    try:
        yield
    finally:
        del os.environ[SPIN]


def preload() -> bool:
    """Load torch's library with global symbols, where that helps; return whether it was loaded."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or "mlx.core" in sys.modules:
        return False
    torch = importlib.util.find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        return False
    path = Path(torch.submodule_search_locations[0]) / "lib" / "libtorch_cpu.so"
    try:
        with shorten_spinning():
            library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return hasattr(library, "sgemm_") and hasattr(library, "dgemm_")
