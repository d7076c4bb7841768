"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

# Seconds; what is waited for comes within one or two, on a machine that is ten times slower too.
PATIENCE = 120


def wait_until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Look every few milliseconds; fail where it does not hold in that time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"did not hold within {seconds} s"
        time.sleep(0.005)
