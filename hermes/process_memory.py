"""The most memory that this process has had."""

import re
import sys
from pathlib import Path

__all__ = ["read_process_peak"]

HIGHEST = re.compile(rb"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def read_process_peak() -> int:
    """The most bytes of the machine's memory that this process has held at once.

    Linux says so in /proc; its getrusage(2) counts what a process had before it began another
    program, and so the memory of whoever started this one.
    """
    try:
        found = HIGHEST.search(Path("/proc/self/status").read_bytes())
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    import resource  # not on Windows, where no worker is started

    unit = 1 if sys.platform == "darwin" else 1024  # as getrusage(2) has it
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
