"""A standard error that survives the loss of its reader, so that this does not end training."""

import io
import os
import sys
from typing import Any

__all__ = ["make_stderr_robust"]

STDERR = 2


class _RobustFile(io.FileIO):
    """A file descriptor that is replaced by /dev/null once it cannot be written to."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def make_stderr_robust() -> int:
    """Replace sys.stderr, so that a closed pipe or terminal drops its lines and raises nothing.

    It has a descriptor of its own, which is returned: number 2 is what libraries write to, and may
    be another file for a while (hermes/rust_panics.py).
    """
    plain = sys.stderr
    if plain is None:  # closed by whoever started the process
        return STDERR
    plain.flush()
    own = os.dup(plain.fileno())
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_RobustFile(own, "w", closefd=False)),
        encoding=plain.encoding,
        errors=plain.errors,
        line_buffering=True,
    )
    return own
