"""What a framework writes to standard error beside the error that it raises, kept from the user.

A ring of MLX says up to ten times over that a socket was closed. All else that started processes
write to descriptor 2, such as the last words of one that crashes, is handed on.
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
    rb"\[ring\] .*|(?=.*(ring|peer|Socket))(\[ring\]|Socket|was closed by the peer|\d|\s)+", re.S
)
LAST = 1.0  # seconds for the last words of those that have ended


@contextmanager
def filter_stderr(folder: str) -> Iterator[None]:
    """In its block what others `redirect_stderr` the folder comes to standard error; no noise."""
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
    """Let this process's descriptor 2 lead through the sieve; Python's own lines pass beside it."""
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
