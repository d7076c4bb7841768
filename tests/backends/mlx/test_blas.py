"""MLX on Linux multiplies with an optimised BLAS where torch has one, and agrees without it."""

import importlib.util
import os
import platform
import subprocess
import sys

import pytest

pytest.importorskip("mlx.core")

import hermes_mlx

borrows = pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() != "x86_64"
    or not importlib.util.find_spec("torch"),
    reason="only MLX's wheel for Linux borrows a BLAS, from torch",
)

JUDGE_WITH_MLX_FIRST = """
import os
os.environ["MLX_ENABLE_TF32"] = "0"
import mlx.core
import hermes_mlx
from hermes_cli import main
assert not hermes_mlx.FAST_BLAS
words = ["--law", "L2/gradients", "--case", "slices.*"]
raise SystemExit(main.run(["conformance", "run", "--backend", "mlx", *words]))
"""


@borrows
def test_tests_compute_with_the_optimised_blas():
    """Whatever order pytest collects modules in: one that imports MLX first would lose it."""
    assert hermes_mlx.FAST_BLAS


@borrows
@pytest.mark.long
def test_gradients_below_a_large_vocabulary_pass_with_the_reference_blas():
    """It sums 300,000 terms from left to right, which is float32's order as good as any."""
    command = [sys.executable, "-c", JUDGE_WITH_MLX_FIRST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@borrows
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "GOMP_SPINCOUNT = '10000'"), ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'")],
)
def test_its_threads_spin_briefly_unless_the_user_says_how_long(given, expected):
    """On a machine that does something else, threads that spin keep each other waiting."""
    code = "import hermes_mlx, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    own = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP", "OMP"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**own, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in done.stderr
    assert done.stdout.strip() == given.get("GOMP_SPINCOUNT", "None")
