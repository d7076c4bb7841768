"""The most memory that a process has had is its own."""

import subprocess
import sys

import numpy as np

from hermes.process_memory import read_process_peak

READ = "from hermes.process_memory import read_process_peak; print(read_process_peak())"


def test_the_peak_of_a_process_has_nothing_of_who_started_it():
    held = np.ones(25_000_000)  # 200 MB
    assert read_process_peak() > held.nbytes
    ran = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    assert 1_000_000 < int(ran.stdout) < held.nbytes


def test_the_peak_has_what_was_freed_again():
    script = f"import numpy; numpy.ones(25_000_000); {READ}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 200_000_000
