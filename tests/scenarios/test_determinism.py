"""--deterministic: the same bits in every run, with two threads, in 1, 2 and 4 processes."""

import hashlib
import os
import subprocess

import pytest

from tests.cli.support import HERMES
from tests.scenarios.kill_runs import TENSORS, command, material


def train(folder, name, backend, processes):
    """Hashes of the last checkpoint's tensors."""
    words = command(folder, folder / name, backend)
    words += ["--deterministic", "--max-steps", "12", "--grad-accum", str(4 // processes)]
    if processes > 1:
        words += ["--num-processes", str(processes)]
    done = subprocess.run(
        [HERMES, *words],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    step = folder / name / "step-00000012"
    return [hashlib.sha256((step / tensor).read_bytes()).hexdigest() for tensor in TENSORS]


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_two_runs_have_the_same_bits(tmp_path, backend, processes):
    material(tmp_path, 0)
    first, second = (train(tmp_path, name, backend, processes) for name in ("first", "second"))
    assert first == second
