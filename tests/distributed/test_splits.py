"""The split of an update over processes and micro-batches changes nothing but rounding."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import worker  # noqa: E402
from support import run_ranks  # noqa: E402

BOUNDS = {"float64": (1e-11, 1e-11), "float32": (1e-5, 1e-4), "bfloat16": (1e-5, 1e-4)}


def check(backend, size, folder):
    run_ranks(HERE / "worker.py", backend, size, folder)
    for case in worker.cases(backend, size):
        alone = worker.numbers(backend, case)
        ranks = [np.load(folder / f"{case}-{rank}.npz") for rank in range(size)]
        loss, weight = BOUNDS[case.rpartition("-")[2]]
        for found in ranks:
            assert set(found) == set(alone)
            for name, wanted in alone.items():
                if name == "digest":
                    continue
                said = f"{case}: {name}"
                np.testing.assert_array_equal(found[name], ranks[0][name], err_msg=said)
                scale = np.abs(wanted) if name in ("loss", "norm") else 1.0
                bound = loss if name in ("loss", "norm") else weight
                assert np.all(np.abs(found[name] - wanted) <= bound * scale), said
            np.testing.assert_array_equal(found["digest"], ranks[0]["digest"])


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_two_processes_make_the_updates_of_one(backend, tmp_path):
    """Float64 to 1e-11, float32 to 1e-5 of the loss and 1e-4 of the weights, with dropout."""
    check(backend, 2, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_four_and_eight_processes_make_the_updates_of_one(backend, size, tmp_path):
    check(backend, size, tmp_path)
