"""Everything hermes raises on purpose, and the exit code each one ends a command with.

    HermesError                  1   a user's mistake; the base of all
      SpecError                      an architecture that cannot be
        MalError                     the same, at a line and column of a file
      DataError                      text, tokens or tokenizer that do not fit
      CheckpointError                a folder or file that is torn, foreign or of another model
      Unsupported                    a backend declines; part of its contract, never a failure
      MissingBackend                 a backend that is not installed
      NonFinite                 70   training met a loss or gradient that is no number
      StorageError              74   the operating system refused to read or write
      Interrupted               75   a signal came; the run was saved
      PeerLost                  76   another process of the run died or hung

A message is one sentence: where, what, what was found, what to do. It carries no traceback to the
user; `assert` is for what cannot happen.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self

__all__ = [
    "CheckpointError",
    "DataError",
    "HermesError",
    "Interrupted",
    "MalError",
    "MissingBackend",
    "NonFinite",
    "PeerLost",
    "SpecError",
    "StorageError",
    "Unsupported",
    "suggest_nearest",
]

EXCERPT = 100  # characters of a source line that an error shows


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: "; did you mean 'num_heads'?", or nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class HermesError(Exception):
    """The base of every error that hermes raises on purpose.

    reported_by: where all processes of a run know of it, the rank that says so for all; None where each
    can only speak for itself.
    """

    exit_code = 1
    reported_by: int | None = None

    def mark_shared(self, rank: int = 0) -> Self:
        """The same, which all processes of the run know, and which `rank` tells."""
        self.reported_by = rank
        return self


class SpecError(HermesError):
    """An architecture that cannot be; `path` leads to the field at fault, outermost first.

    A path is made of field names and, under `blocks`, of indices:
    ("blocks", 0, "attention", "num_kv_heads").
    """

    def __init__(self, message: str, path: tuple[str | int, ...] = ()):
        super().__init__(message)
        self.path = path


class MalError(SpecError):
    """A mistake in a MAL file: `file:line:column: sentence`, the source line and a caret."""

    def __init__(self, message: str, file: str, line: int, column: int, source: str = ""):
        super().__init__(f"{file}:{line}:{column}: {message}{_format_excerpt(source, column)}")
        self.sentence = message
        self.file = file
        self.line = line
        self.column = column


def _format_excerpt(source: str, column: int) -> str:
    """The source line and, below it, a caret; a long line is cut around the place."""
    start = 0 if column <= EXCERPT else column - EXCERPT // 2
    shown = source[start : start + EXCERPT]
    # Tabs stay tabs in both lines, so that the caret stands right at any width of theirs; what
    # could move a terminal's cursor does not reach it.
    shown = "".join(c if c.isprintable() or c == "\t" else "?" for c in shown)
    indent = "".join(c if c == "\t" else " " for c in shown[: column - 1 - start])
    return f"\n{shown}\n{indent}^" if source else ""


class DataError(HermesError):
    """Text, tokens or a tokenizer that cannot be read or do not fit together."""


class CheckpointError(HermesError):
    """A checkpoint that is torn, altered, foreign, or of another model."""


class Unsupported(HermesError):
    """A backend declines what it cannot realise, in one sentence."""


class MissingBackend(HermesError):
    """A backend that is not installed, or that no one has heard of."""


class NonFinite(HermesError):
    """Training met a loss or a gradient that is not a number; nothing was updated with it."""

    exit_code = 70


class StorageError(HermesError):
    """The operating system refused to read or write: full, read-only, no permission."""

    exit_code = 74


class Interrupted(HermesError):
    """A signal came; the step was finished and the run saved."""

    exit_code = 75


class PeerLost(HermesError):
    """Another process of the run died, hung or fell silent."""

    exit_code = 76

    def __init__(self, message: str, reported_by: int | None = None):
        super().__init__(message)
        self.reported_by = reported_by
