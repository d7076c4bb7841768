"""What a call that takes long shows besides its result, and writes into a log file."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hermes.arguments import check_verbosity
from hermes.stage_display import show_progress
from hermes.stages import (
    ShowStage,
    get_stage_display,
    hide_stages,
    show_headings,
    show_stages,
)
from hermes.storage.log_file import LogFile

__all__ = ["display_call"]

REPEAT = 30.0  # seconds between two lines of one stage


@contextmanager
def display_call(
    name: str,
    *,
    progress: bool | None = None,
    verbose: bool = False,
    quiet: bool = False,
    log_file: str | Path | None = None,
) -> Iterator[Callable[[str], None]]:
    """A block of the call `name`, which yields what says a line about it.

    progress: as in `show_progress`. verbose: standard error gets a line for each stage, and what is
    said; quiet: nothing is shown. log_file: gets these lines, with the time, whatever is shown, and
    how far a stage is twice a minute; it only grows, and its last line is the error that ended the
    call. Raises HermesError for verbose and quiet together, and StorageError.
    """
    check_verbosity(verbose, quiet)
    with ExitStack() as stack:
        log = stack.enter_context(LogFile(None if log_file is None else Path(log_file)))
        stack.enter_context(show_progress(False if quiet or verbose else progress))
        if quiet:
            stack.enter_context(show_headings(lambda line: None))

        def say(line: str) -> None:
            log.say(f"{name}: {line}")
            if verbose:
                print(line, file=sys.stderr, flush=True)

        if quiet or verbose:
            stack.enter_context(hide_stages())
        if verbose or log_file is not None:
            stack.enter_context(show_stages(_StageLines(say, get_stage_display()).show))
        yield say


class _StageLines:
    """Says each stage once, and now and then how far it is. around: shows it, too."""

    def __init__(self, say: Callable[[str], None], around: ShowStage):
        self._say, self._around = say, around
        self._known: set[str] = set()
        self._said_at = 0.0

    def show(self, what: str, done: int = 0, total: int = 0, *facts: str) -> None:
        """Take note of a stage; "" ends it."""
        self._around(what, done, total, *facts)
        now, is_new = time.monotonic(), what not in self._known
        if not what or not (is_new or now - self._said_at >= REPEAT):
            return
        self._known.add(what)
        self._said_at = now
        share = f": {100 * done / total:.0f} %" if total and not is_new else ""
        self._say(", ".join([f"{what}{share}", *(() if is_new else facts)]))
