"""Every command, sent signals at random moments by `signal_commands.py`."""

import os
import re
import subprocess
import sys

import pytest

from tests.scenarios.signal_commands import COMMANDS


@pytest.mark.long
def test_a_signal_at_any_moment_ends_a_command_with_one_line():
    signals = 10 * len(COMMANDS)
    done = subprocess.run(
        [sys.executable, "-m", "tests.scenarios.signal_commands", "--signals", str(signals)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(
        rf"{signals} signals to {len(COMMANDS)} commands: .*\d+ interrupted, \d+ saved\n",
        done.stdout,
    )
