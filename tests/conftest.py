"""What every test needs set before a framework is loaded."""

import os

from hypothesis import HealthCheck, settings

# Spinning OpenMP threads of two frameworks fight for few cores; float32 means float32.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# MLX takes its BLAS from a library that is loaded before it; test modules load MLX in any order.
import hermes_mlx  # noqa: F401
from hermes import stage_display

# What takes longer than a moment is shown: on a slow machine that may be anything, and what a test
# compares would have a line more.
stage_display.PATIENCE = stage_display.LOG_PATIENCE = 3600.0

# A machine that is busy with other things draws examples slowly, which says nothing of a test.
BUSY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# The same examples each time: one that breaks a law is found by who looks for it, which is what
# `--hypothesis-profile search` is for, and not by a change that has nothing to do with it.
settings.register_profile("same", derandomize=True, **BUSY)
settings.register_profile("search", **BUSY)
settings.load_profile("same")


def pytest_addoption(parser):
    """How often the test of killed processes kills."""
    parser.addoption("--kills", type=int, default=5)
