"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from subprocess import Popen

# Seconds; what is waited for comes within one or two, on a machine that is ten times slower too.
PATIENCE = 120


def wait_until(
    holds: Callable[[], object], seconds: float = PATIENCE, process: Popen | None = None
) -> None:
    """Look every few milliseconds; fail where it does not hold in that time.

    process: what it has to be done by; where that ends before, what it said is the reason.
    """
    end = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None and not holds():
            said = process.stderr or process.stdout
            raise AssertionError(f"it ended with {process.returncode}: {said and said.read()}")
        assert time.monotonic() < end, f"did not hold within {seconds} s"
        time.sleep(0.005)
