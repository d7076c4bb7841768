"""Standard streams that may be closed, and a standard error whose reader may go away.

Neither ends a run. Imports nothing of hermes, since it is there before everything else is imported.
"""

import io
import os
import sys
from typing import Any

__all__ = ["escape_unencodable", "make_stderr_robust", "open_standard_streams"]

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
    if plain is None:  # closed, and there is no /dev/null
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


def open_standard_streams() -> None:
    """Open /dev/null for each of the three standard streams that whoever started us has closed.

    Otherwise the next file that is opened gets its number: a checkpoint would have number 2, and in
    it what libraries print to standard error.
    """
    streams = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))
    for number, (name, mode) in enumerate(streams):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one. Processes that are started have it, too.
            os.set_inheritable(os.open(os.devnull, mode), True)
            kind = "r" if number == 0 else "w"
            text = open(number, kind, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, text)


def escape_unencodable() -> None:
    """Have standard output show as \\u2014, as standard error does, what its encoding lacks.

    Where the locale's is not UTF-8, the first such character of a text would end the command.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
