"""The exceptions that hermes raises on purpose, and the exit code of each on the command line.

    HermesError                  1   a user's mistake; the base of all others
      SpecError                      an inconsistent architecture
        MalError                     the same, at a line and column of a MAL file
      DataError                      text, tokens or a tokenizer that are broken or do not match
      CheckpointError                a folder or file that is incomplete, altered, foreign or holds
                                     another model
      Unsupported                    a backend declines; part of its contract, not a failure
      MissingBackend                 a backend that is not installed
      NonFinite                 70   training met a loss or gradient that is not finite
      OutOfMemory               71   the device or the machine has too little memory
      StorageError              74   the operating system refused to read or write
      Interrupted               75   a signal arrived and the run was saved
      PeerLost                  76   another process of the run died or hung

A message is one sentence: where, what was expected, what was found, what to do. Users see no
traceback; `assert` is for what cannot happen.
"""

import re
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
    "OutOfMemory",
    "PeerLost",
    "SpecError",
    "StorageError",
    "Unsupported",
    "describe_error",
    "describe_exhaustion",
    "explain_exhaustion",
    "explain_os_error",
    "is_compiler_interrupted",
    "is_out_of_memory",
    "suggest_nearest",
]

EXCERPT = 100  # most characters of a source line that an error shows


# What Python, NumPy, PyTorch, oneDNN, MLX, the C library and the dynamic loader say of memory or
# threads that the system refused.
EXHAUSTED = re.compile(
    r"out of memory|cannot allocate|can.t allocate|unable to allocate|failed to allocate"
    r"|bad_alloc|failed to map segment|can.t start new thread|cannot create thread"
    r"|resource temporarily unavailable|insufficient memory|status_alloc_failed"
    r"|greater than the maximum allowed buffer size|resource limit \S+ exceeded"
    r"|could not create a primitive$",
    re.IGNORECASE,
)
# Of the system's threads, not of its memory.
THREADS = re.compile(
    r"can.t start new thread|cannot create thread|resource temporarily unavailable", re.IGNORECASE
)
# What compilers leave behind that were sent the terminal's Ctrl-C: GCC's words, those of a Python
# worker, and what MLX says of a process that SIGINT or SIGTERM ended. Where its shell ends by the
# signal before the compiler does, MLX takes that for success and misses what should be there.
ENDED = re.compile(
    r"KeyboardInterrupt|(Interrupt|Terminated) signal terminated program"
    r"|with return code (2|15|130|143):"
    r"|Could not load C\+\+ shared library .*: No such file or directory"
)
ENDING = (-2, -15, 130, 143)  # by SIGINT or SIGTERM, also as a shell says it


def explain_exhaustion(error: BaseException) -> str | None:
    """Say in a sentence that memory, threads or address space ran out; None for other errors."""
    if _find_exhaustion(error) is None:
        return None
    text = describe_exhaustion(error)
    told = f" ({text})" if text else ""
    if THREADS.search(text):
        return f"no further thread can be started{told}; raise the limits that ulimit -a shows"
    return (
        f"out of memory{told}; free some, raise a limit set by ulimit -v, or choose a smaller "
        "model, batch or sequence length"
    )


def _list_chain(error: BaseException) -> list[BaseException]:
    """The error, what it came from, and so on."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    return chain


def _find_exhaustion(error: BaseException) -> BaseException | None:
    """The innermost error that says that something ran out: it says so in the plainest words."""
    for seen in reversed(_list_chain(error)):
        is_system = isinstance(seen, RuntimeError | ImportError | OSError)
        if isinstance(seen, MemoryError) or (is_system and EXHAUSTED.search(str(seen))):
            return seen
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a device or of the machine; not threads."""
    found = _find_exhaustion(error)
    return found is not None and not THREADS.search(str(found))


def is_compiler_interrupted(error: BaseException) -> bool:
    """Whether a compiler failed as it was sent a signal, such as the terminal's Ctrl-C."""
    return any(
        getattr(seen, "returncode", None) in ENDING or ENDED.search(str(seen))
        for seen in _list_chain(error)
    )


def describe_exhaustion(error: BaseException) -> str:
    """What was asked for when something ran out, in the words of whoever refused it.

    Of several lines, as compilers write them behind their command, the first that says it.
    """
    found = _find_exhaustion(error)
    lines = str(found or "").splitlines()
    told = next((line for line in lines if EXHAUSTED.search(line)), " ".join(lines))
    return " ".join(told.split())[:200]


def explain_os_error(error: Exception) -> str:
    """The reason that the operating system gives, to stand within a sentence.

    Of an error without a number it is what that error says, such as a server's answer.
    """
    reason = str(getattr(error, "strerror", None) or error)
    return reason if reason[1:2].isupper() else reason[:1].lower() + reason[1:]


def describe_error(error: Exception) -> str:
    """What an error says in one line; of a system's, the file that it names and the reason."""
    if not isinstance(error, OSError):
        return str(error)
    reason = explain_os_error(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Suggest a known word close to an unknown one: "; did you mean 'num_heads'?", or ""."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class HermesError(Exception):
    """The base of every error that hermes raises on purpose.

    reported_by: the rank that prints the error where all ranks know of it; None where each rank
    knows only of its own errors.
    """

    exit_code = 1
    reported_by: int | None = None

    def mark_shared(self, rank: int = 0) -> Self:
        """Return this error, marked as known on all ranks and printed by `rank` alone."""
        self.reported_by = rank
        return self


class SpecError(HermesError):
    """An inconsistent architecture; `path` leads to the wrong field, outermost first.

    A path consists of field names and, below `blocks`, of indices:
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
    """Format the source line with a caret below it; a long line is cut around the column."""
    start = 0 if column <= EXCERPT else column - EXCERPT // 2
    shown = source[start : start + EXCERPT]
    # Tabs stay tabs in both lines, so that the caret is aligned whatever their width; control
    # characters, which could move a terminal's cursor, are replaced.
    shown = "".join(c if c.isprintable() or c == "\t" else "?" for c in shown)
    indent = "".join(c if c == "\t" else " " for c in shown[: column - 1 - start])
    return f"\n{shown}\n{indent}^" if source else ""


class DataError(HermesError):
    """Text, tokens or a tokenizer that cannot be read or do not match each other."""


class CheckpointError(HermesError):
    """A checkpoint that is incomplete, altered, foreign, or holds another model."""


class Unsupported(HermesError):
    """A backend declines what it does not implement, in one sentence."""


class MissingBackend(HermesError):
    """A backend that is not installed, or whose name is unknown."""


class NonFinite(HermesError):
    """Training met a loss or gradient that is not finite; the update was not applied."""

    exit_code = 70


class OutOfMemory(HermesError):
    """The device or the machine has too little memory for what was asked."""

    exit_code = 71


class StorageError(HermesError):
    """The operating system refused to read or write: disk full, read-only, no permission."""

    exit_code = 74


class Interrupted(HermesError):
    """A signal arrived; the step was finished and the run saved."""

    exit_code = 75


class PeerLost(HermesError):
    """Another process of the run died, hung or stopped responding."""

    exit_code = 76

    def __init__(self, message: str, reported_by: int | None = None):
        super().__init__(message)
        self.reported_by = reported_by
