"""A standard error that survives the loss of its reader, so that this does not end training."""

import io
import os
import sys
from typing import Any

__all__ = ["make_stderr_robust"]


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


def make_stderr_robust() -> None:
    """Replace sys.stderr, so that a closed pipe or terminal drops its lines and raises nothing."""
    plain = sys.stderr
    if plain is None:  # closed by whoever started the process
        return
    plain.flush()
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_RobustFile(plain.fileno(), "w", closefd=False)),
        encoding=plain.encoding,
        errors=plain.errors,
        line_buffering=True,
    )
