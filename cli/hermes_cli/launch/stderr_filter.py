"""Drops what a framework prints to standard error besides the exception that it raises.

A ring of MLX prints up to ten times that a socket was closed. Everything else that workers write to
file descriptor 2, such as the last words of a crash, is passed on.
"""

import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["filter_stderr", "redirect_stderr"]

NAME = "stderr"
# Written in pieces, between which other processes write theirs.
NOISE = re.compile(
    rb"\[ring\] .*|(?=.*(ring|peer|ocket))"
    rb"(\[ring\]|Sending to socket|Socket|failed with errno|was closed by the peer|\d|\s)+",
    re.S,
)
LAST = 1.0  # seconds for the last words of those that have ended


@contextmanager
def filter_stderr(folder: str) -> Iterator[None]:
    """A block in which the output of workers that `redirect_stderr` is filtered and printed."""
    path = Path(folder, NAME)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    own = os.open(path, os.O_WRONLY)  # without one it would end before the first comes
    os.set_blocking(reader, True)
    thread = threading.Thread(target=_hand_on, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(own)
        thread.join(LAST)


def _hand_on(reader: int) -> None:
    with open(reader, "rb") as lines:
        for line in lines:
            if not NOISE.fullmatch(line):
                sys.stderr.write(line.decode(errors="replace"))
                sys.stderr.flush()


def redirect_stderr(folder: str) -> None:
    """Send this process's descriptor 2 through the filter; sys.stderr keeps the original one."""
    path = Path(folder, NAME)
    if not path.exists() or sys.stderr is None:
        return
    sys.stderr.flush()
    beside = os.dup(2)
    into = os.open(path, os.O_WRONLY)
    os.dup2(into, 2)
    os.close(into)
    # Nobody closes it: who wraps this stream keeps its descriptor and lets go of the rest.
    plain = io.BufferedWriter(io.FileIO(beside, "w", closefd=False))
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    sys.stderr = io.TextIOWrapper(plain, encoding=encoding, errors=errors, line_buffering=True)
