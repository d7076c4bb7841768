"""Keeps what Rust prints when it panics off standard error, where it is an exception besides.

A library written in Rust (tokenizers) writes lines about a panic to file descriptor 2 before it
raises it in Python. The sentence that is said of the exception is enough. The lines cannot be
turned off, so in a block of such calls descriptor 2 is a file; what else is written to it meanwhile
is passed on at the block's end. Imports nothing of hermes.
"""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["drop_panics"]

STDERR = 2
# From the first line on: what follows is a backtrace, if one was asked for.
PANIC = re.compile(rb"\n?thread '.*panicked at .*", re.S)


class _Held:
    """Descriptor 2, and what stands in for it while any thread is in a block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks, self._panicked = 0, False
        self._file, self._real = -1, STDERR  # descriptors
        os.register_at_fork(after_in_child=self._begin_anew)

    def enter(self) -> None:
        """Begin a block."""
        with self._lock:
            if not self._blocks:
                if self._file < 0:
                    with tempfile.TemporaryFile(buffering=0) as file:
                        self._file = os.dup(file.fileno())
                self._real = os.dup(STDERR)
                os.dup2(self._file, STDERR)
            self._blocks += 1  # it may have raised: then there is no block to leave

    def leave(self, panicked: bool) -> None:
        """End a block; the last one passes on what was written. panicked: by a panic."""
        with self._lock:
            self._blocks -= 1
            self._panicked = self._panicked or panicked
            if self._blocks:
                return
            self._restore()
            written = b""
            if size := os.fstat(self._file).st_size:
                written = os.pread(self._file, size, 0)
                os.ftruncate(self._file, 0)
                os.lseek(self._file, 0, os.SEEK_SET)
            written = PANIC.sub(b"", written) if self._panicked else written
            self._panicked = False
        while written:
            written = written[os.write(STDERR, written) :]

    def _restore(self) -> None:
        os.dup2(self._real, STDERR)
        os.close(self._real)

    def _begin_anew(self) -> None:
        """In a forked process there are no blocks: their threads are not in it."""
        self._lock = threading.Lock()
        if self._blocks:
            self._restore()
        self._blocks, self._panicked, self._file = 0, False, -1


_HELD: list[_Held] = []
_MAKING = threading.Lock()


@contextmanager
def drop_panics() -> Iterator[None]:
    """A block of calls of a library in Rust, whose panic is the exception and nothing else."""
    with _MAKING:
        if not _HELD:
            _HELD.append(_Held())
    held = _HELD[0]
    try:
        held.enter()
    except OSError:  # there is no standard error, or no room for a file
        yield
        return
    panicked = True
    try:
        yield
        panicked = False
    except Exception:
        panicked = False  # a panic is no Exception
        raise
    finally:
        with suppress(OSError):  # nobody reads it
            held.leave(panicked)
