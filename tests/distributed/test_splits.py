"""The split of a step over processes and micro-batches changes nothing but rounding."""

import functools
from pathlib import Path

import numpy as np
import pytest

from tests.distributed import worker
from tests.distributed.support import run_ranks

# The largest relative error of losses and norms, and the largest error of weights and moments.
BOUNDS = {
    "float64": (1e-11, 1e-11),
    "float32": (1e-5, 1e-4),
    "bfloat16": (1e-5, 1e-4),
    "float16": (1e-5, 1e-4),
}


@functools.cache
def alone(backend, name):
    """One process's numbers, its micro-batches as many as all processes have together."""
    case = (worker.WHOLE | worker.SPLIT | worker.IN_GROUPS | worker.LONG | worker.COMPILED)[name]
    return worker.numbers(backend, case)


def check(backend, size, folder, group="short"):
    run_ranks(Path(worker.__file__), backend, size, folder, group)
    for case in worker.cases(backend, size, group):
        ranks = [np.load(folder / f"{case}-{rank}.npz") for rank in range(size)]
        relative, absolute = BOUNDS[case.rpartition("-")[2]]
        if case.endswith("scaled-float16"):
            overflows = alone(backend, case)["norm"] == worker.OVERFLOW
            assert overflows.tolist() == [True, True, False, False]
        for found in ranks:
            assert set(found) == set(alone(backend, case))
            np.testing.assert_array_equal(found["digest"], ranks[0]["digest"])
        worst = {True: 0.0, False: 0.0}
        for name, wanted in alone(backend, case).items():
            if name == "digest":
                continue
            said, scalars = f"{case}: {name}", name in ("loss", "norm")
            for found in ranks:
                np.testing.assert_array_equal(found[name], ranks[0][name], err_msg=said)
            error = np.abs(ranks[0][name] - wanted) / (np.abs(wanted) if scalars else 1.0)
            assert np.all(error <= (relative if scalars else absolute)), said
            worst[scalars] = max(worst[scalars], error.max())
        print(f"{backend} {size} {case}: loss {worst[True]:.1e}, weights {worst[False]:.1e}")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_two_processes_make_the_updates_of_one(backend, tmp_path):
    """Float64 to 1e-11, else 1e-5 of the loss and 1e-4 of the weights; split and not, dropout."""
    check(backend, 2, tmp_path)


@pytest.mark.long
def test_what_is_compiled_makes_the_updates_of_one_process_split_or_not(tmp_path):
    check("torch", 2, tmp_path, "compiled")


@pytest.mark.long
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_four_and_eight_processes_make_the_updates_of_one(backend, size, tmp_path):
    check(backend, size, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_fifty_updates_do_not_depend_on_the_split(backend, size, tmp_path):
    """1 x 8, 2 x 4, 4 x 2 and 8 x 1, by DDP, by FSDP2 and in one process, in float32."""
    check(backend, size, tmp_path, "long")
