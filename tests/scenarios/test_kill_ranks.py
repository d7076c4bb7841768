"""Processes killed at random moments; `kills.py` beside this does it as often as one likes."""

import os
import subprocess
import sys

import pytest

KILLS = "tests.scenarios.kill_ranks"


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_process_killed_at_a_random_moment_loses_nothing(backend, request):
    """pytest --kills 50 for as many."""
    kills = str(request.config.getoption("--kills"))
    done = subprocess.run(
        [sys.executable, "-m", KILLS, "--backend", backend, "--kills", kills],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 + 60 * int(kills),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{backend}: {kills} kills in ")
