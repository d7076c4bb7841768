"""An optimised BLAS for MLX on Linux, lent by an installed torch; without one MLX is only slower.

MLX's wheel calls `sgemm_` and `dgemm_` through the dynamic linker, so a library that exports both
and is loaded globally first takes their place. torch itself is not imported.
"""

import ctypes
import importlib.util
import platform
import sys
from pathlib import Path


def lend():
    """Load torch's library globally, if that helps here; whether it was."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or "mlx.core" in sys.modules:
        return False
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        return False
    library = Path(found.submodule_search_locations[0]) / "lib" / "libtorch_cpu.so"
    try:
        loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return hasattr(loaded, "sgemm_") and hasattr(loaded, "dgemm_")
