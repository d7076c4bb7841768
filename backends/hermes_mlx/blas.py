"""An optimised BLAS for MLX on Linux, borrowed from an installed torch.

MLX's wheel for Linux calls `sgemm_` and `dgemm_` through the dynamic linker, so a library that
exports both and is loaded globally before it takes their place. torch itself is not imported.
Without one MLX computes the same, more slowly.
"""

import ctypes
import importlib.util
import platform
import sys
from pathlib import Path


def preload() -> bool:
    """Load torch's library with global symbols, where that helps; return whether it was loaded."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or "mlx.core" in sys.modules:
        return False
    torch = importlib.util.find_spec("torch")
    if torch is None or not torch.submodule_search_locations:
        return False
    path = Path(torch.submodule_search_locations[0]) / "lib" / "libtorch_cpu.so"
    try:
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return hasattr(library, "sgemm_") and hasattr(library, "dgemm_")
