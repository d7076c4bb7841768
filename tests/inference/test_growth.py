"""An engine's process is as large after a thousand requests as before."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.inference.test_engine import BACKENDS
from tests.memory_growth import needs_proc

WARM = 3  # hundreds, which fill caches
MOST_BYTES, MOST_OBJECTS = 500, 0.1  # of a request


def measure(backend, *leak):
    """Bytes and objects that each of a thousand requests leaves behind.

    The least of two thousands: a cache that grows once shows in one of them, and a leak in both.
    """
    command = [sys.executable, "-m", "tests.inference.growth_worker", backend, str(WARM + 20)]
    ran = subprocess.run([*command, *leak], capture_output=True, text=True, check=True)
    sizes = json.loads(ran.stdout)
    marks = [sizes[WARM - 1 + hundreds] for hundreds in (0, 10, 20)]
    grown = [
        [(b - a) / 1000 for a, b in zip(before, after, strict=True)]
        for before, after in pairwise(marks)
    ]
    return map(min, *grown)


@needs_proc
@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thousand_requests_leave_nothing(backend):
    size, objects = measure(backend)
    assert size < MOST_BYTES
    assert objects < MOST_OBJECTS


@needs_proc
@pytest.mark.long
def test_a_request_that_leaves_something_is_seen():
    size, objects = measure("torch", "4000")
    assert size > MOST_BYTES
    assert objects > MOST_OBJECTS
