"""Real runs killed at random points; `kill_runs.py` beside this does it as often as one likes."""

import os
import subprocess
import sys

import pytest


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize(
    ("command", "accum", "kills"), [("train", 2, 10), ("sft", 4, 5), ("dpo", 1, 5)]
)
def test_a_run_killed_at_random_points_loses_nothing_and_goes_on_exactly(
    backend, command, accum, kills
):
    """In a process of its own, which forks the lives before any thread is there."""
    asked = ["--command", command, "--grad-accum", str(accum), "--kills", str(kills)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.scenarios.kill_runs", "--backend", backend, *asked],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{backend}, {command}: {kills} kills in ")
