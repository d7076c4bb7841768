"""A standard error that outlives its reader: what nobody can read any more ends no training."""

import io
import os
import sys
from typing import Any

__all__ = ["make_stderr_robust"]


class _Lasting(io.FileIO):
    """A descriptor that leads nowhere once it cannot be written to."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)


def make_stderr_robust() -> None:
    """Let the process go on, without its lines, where the pipe or terminal behind them is gone."""
    plain = sys.stderr
    if plain is None:  # closed by whoever started the process
        return
    plain.flush()
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Lasting(plain.fileno(), "w", closefd=False)),
        encoding=plain.encoding,
        errors=plain.errors,
        line_buffering=True,
    )
