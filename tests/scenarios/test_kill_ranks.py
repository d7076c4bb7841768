"""Faults in runs of two processes, at random moments; kill_ranks.py does it as often as wanted."""

import os
import random
import subprocess
import sys

import pytest

from tests.scenarios.kill_ranks import ACTIONS, PHASES, choose_fault

PROGRAM = "tests.scenarios.kill_ranks"
KINDS = {"torch": ["torch"], "torch-full": ["torch", "--shard", "full"], "mlx": ["mlx"]}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_a_random_moment_loses_nothing(kind, request):
    """pytest --kills 50 for as many."""
    kills = str(request.config.getoption("--kills"))
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, "--backend", *KINDS[kind], "--kills", kills],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 + 150 * int(kills),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f": {kills} faults in " in done.stdout


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_phase_action_and_target_is_chosen(backend):
    choose = random.Random(0)
    faults = [choose_fault(choose, backend) for _ in range(600)]
    assert {one.phase for one in faults} == set(PHASES)
    seen = {(one.action, one.target, one.rank) for one in faults}
    for action in ACTIONS:
        for rank in (0, 1):
            assert (action, "self", rank) in seen
            has_store = backend == "torch" or action != "disconnect"
            assert ((action, "launcher", rank) in seen) == has_store
