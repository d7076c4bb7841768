"""Real runs killed at random points; `kills.py` beside this does it as often as one likes."""

import os
import subprocess
import sys

import pytest


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_run_killed_at_random_points_loses_nothing_and_goes_on_exactly(backend):
    """In a process of its own, which forks the lives before any thread is there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.scenarios.kill_runs", "--backend", backend, "--kills", "10"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{backend}: 10 kills in ")
