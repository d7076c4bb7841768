"""Ctrl-C and SIGTERM while the library trains: they take effect once the step is saved."""

import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["DeferredInterrupt"]

# What each signal does to a program that does not handle it itself.
UNHANDLED = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,  # Slurm's notice before the time limit
}


class DeferredInterrupt:
    """A block in which the first signal is kept for whoever polls `came`; a second one raises.

    number: the signal, None while none came. A signal that the program handles itself, or ignores,
    is left to it; outside the main thread nothing changes.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def came(self) -> bool:
        """Whether a signal arrived."""
        return self.number is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number, default in UNHANDLED.items():
                if signal.getsignal(number) is default:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.number = number
