"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 in every phase of a command.

The handlers do nothing, so that no signal can interrupt a write or an import half way: Python's C
code writes the signal's number to a pipe, from which a thread of this module reads it. Imports
nothing of hermes, since it is there before everything else is imported.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

__all__ = ["CAUGHT", "FIRST_STEP_GRACE", "GRACE", "INTERRUPTED", "Signals", "write_to"]

# SIGUSR1 is the notice of Slurm's --signal before the time limit.
CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INTERRUPTED = 130  # the exit code of a command that saved nothing
GRACE = 1.0
FIRST_STEP_GRACE = 4.0
POLL = 0.05
PENDING = 0.5  # seconds between calls of `on_pending`
LAST_WORD = 0.5  # seconds for the main thread to end once it has said that it does
SHOW_CURSOR = b"\r\x1b[K\x1b[?25h"  # a bar hides it; what is left of the bar goes too

_STDERR = [2]


def write_to(descriptor: int) -> None:
    """Write what is said of signals there: to standard error, whatever its number."""
    _STDERR[0] = descriptor


def _write_stderr(text: str) -> None:
    """Write to the descriptor past sys.stderr, whose lock the main thread may hold."""
    data = text.encode("utf-8", "replace") + b"\n"
    if os.isatty(_STDERR[0]):
        data = SHOW_CURSOR + data
    try:
        os.write(_STDERR[0], data)
    except OSError:
        return  # nobody reads it any more


class Signals:
    """A block in which a first signal is kept for whoever polls, and a second one ends the process.

    grace: seconds after the first signal at which the process ends with 130 if it has not ended by
    itself, as inside a long call that polls nothing; None for as long as it takes. words: what is
    said at the first signal, "" for nothing. last_words: what is said where the process ends
    itself. silent: another process says it. ends: called before the process ends itself.
    on_overdue: called in a thread where a first signal's grace is over, before the process ends
    itself, and given what says a line. It does not end where there is no grace any more; a second
    signal does not wait.
    on_pending: called every half second while a signal is there and the process is, too, and more
    often while it only waits for its threads to end. on_join: called once the other ranks are
    found. on_first_step: called once the first step is done.

    Outside the block nothing comes, unless `finish` was called in it: then the program ends, and a
    signal while Python ends ends it with that code, and not with a traceback. SIGHUP stays ignored
    where it was, as under nohup, and a second one ends nothing, since a closing terminal sends
    several.
    """

    def __init__(self, tell: Callable[[str], None] = _write_stderr):
        self.grace: float | None = GRACE
        self.words = ""
        self.last_words = "Error: interrupted"
        self.silent = False
        self.ends: Callable[[], None] | None = None
        self.on_overdue: Callable[[Callable[[str], None]], None] | None = None
        self.on_pending: Callable[[], None] = lambda: None
        self.on_join: Callable[[], None] = lambda: None
        self.on_first_step: Callable[[], None] = lambda: None
        self.number: int | None = None
        self._tell = tell
        self._came_at = self._called_at = self._raised_at = 0.0
        self._raises = self._was_overdue = False
        self._claimed = threading.Lock()
        self._code, self._finished = INTERRUPTED, False
        self._before: dict[int, Any] = {}

    def has_come(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def raise_if_come(self) -> None:
        """Raise KeyboardInterrupt if a signal came: the safe points of what can be left off."""
        if self.has_come():
            raise KeyboardInterrupt

    def raise_if_ends(self) -> None:
        """Raise KeyboardInterrupt if a signal came and nothing is there to be saved."""
        if self.has_come() and self.grace is not None:
            raise KeyboardInterrupt

    def claim_last_words(self) -> bool:
        """Whether the caller is the first who says how the process ends."""
        return self._claimed.acquire(blocking=False)

    def forget_ctrl_c(self) -> bool:
        """Forget a Ctrl-C, once what it was meant to stop is stopped; whether none is left."""
        if self.number == signal.SIGINT:
            self.number = None
        return self.number is None

    @contextmanager
    def raise_at_once(self) -> Iterator[None]:
        """A block in which Ctrl-C raises KeyboardInterrupt: reading a line, which nobody polls."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def finish(self, code: int) -> None:
        """All is done, with that exit code: a signal from here on ends the process with it."""
        self.claim_last_words()
        self._code, self._finished = code, True
        if self.has_come():
            self.on_pending()

    def __enter__(self) -> "Signals":
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        caught = [one for one in CAUGHT if not (ignored and one == signal.SIGHUP)]
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        self._before = {number: signal.signal(number, self._handle) for number in caught}
        _register_at_fork()
        _OPEN.append(self)
        return self

    def leave_child(self) -> None:
        """Let signals end a forked process at once, and without a word.

        It has the pipe, too: a library that ends its workers by SIGTERM would end the command, and
        they would go on.
        """
        signal.set_wakeup_fd(-1)
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *error: object) -> None:
        if self._finished:
            return  # to the last moment of the program
        _OPEN.remove(self)
        for number, handler in self._before.items():
            last = self.has_come() and number == signal.SIGHUP
            signal.signal(number, signal.SIG_IGN if last else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._writer)  # ends the thread, which closes the other end

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._raises:
            if number != signal.SIGINT:
                self.number = number
            self._raised_at = time.monotonic()
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while True:
            if self._is_overdue():
                self._end_overdue()
            self._call_pending()
            # The grace may change meanwhile: training begins, or the first step is done.
            ready, _, _ = select.select([self._reader], [], [], POLL if self.has_come() else None)
            if not ready:
                continue
            numbers = os.read(self._reader, 64)
            if not numbers:
                os.close(self._reader)
                return
            for number in numbers:
                self._take(number)

    def _call_pending(self) -> None:
        if not self.has_come():
            return
        # Python waits at its end for threads that torch has given several compilers each.
        if time.monotonic() >= self._called_at + (POLL if self._finished else PENDING):
            self.on_pending()
            self._called_at = time.monotonic()

    def _is_overdue(self) -> bool:
        """Whether a signal came so long ago that nobody seems to poll."""
        idle = self._finished or (self._raises and self.number == signal.SIGINT)
        if not self.has_come() or idle or self.grace is None or self._was_overdue:
            return False
        return time.monotonic() >= self._came_at + self.grace

    def _take(self, number: int) -> None:
        if number not in self._before:
            return
        if self._raises and number == signal.SIGINT:
            self._repeat_unless_raised()
            return
        if self.has_come() or self._finished:
            if number != signal.SIGHUP:
                self._end()
            return
        self._came_at = time.monotonic()
        self.number = number
        if self.words and not self.silent:
            _write_stderr(self.words)

    def _repeat_unless_raised(self) -> None:
        """Send Ctrl-C again where the call that reads a line has not seen it.

        It is looked for when the wait for a key is interrupted, and not if it came just before,
        while a key was worked on (GNU readline, and CPython's own reading alike).
        """
        came_at = time.monotonic()
        time.sleep(POLL)
        if self._raises and self._raised_at < came_at - POLL:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _end_overdue(self) -> None:
        """Do what comes at the end, which a second signal cuts short, and end the process."""
        if self.on_overdue is None:
            self._end()
            return
        before, self._was_overdue = self.on_overdue, True

        def end() -> None:
            before(_write_stderr)
            if self.grace is not None:
                self._end()

        threading.Thread(target=end, name="overdue", daemon=True).start()

    def _end(self) -> None:
        """End the process from this thread, whatever the main thread is doing."""
        self.on_pending()
        if self.ends:
            self.ends()
        if self.claim_last_words():
            self._tell(self.last_words)
        elif not self._finished:
            time.sleep(LAST_WORD)
        os._exit(self._code)


_OPEN: list[Signals] = []  # the blocks that this process is in


@cache
def _register_at_fork() -> None:
    """Have forked processes leave the open blocks; once, since Python forgets no such function."""
    os.register_at_fork(after_in_child=_leave_child)


def _leave_child() -> None:
    for signals in _OPEN:
        signals.leave_child()
