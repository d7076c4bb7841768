"""How many targets a run takes per second, without the time of saves and evaluations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Throughput"]


class Throughput:
    """Measures targets per second from one reading to the next.

    clock: seconds. tokens: how many targets the run has taken already.
    """

    def __init__(self, clock: Callable[[], float], tokens: int):
        self._clock = clock
        self.restart(tokens)

    def restart(self, tokens: int) -> None:
        """Measure from here on, where the run has taken so many targets."""
        self._tokens, self._since = tokens, self._clock()

    @contextmanager
    def pause(self, count: Callable[[float], object] = lambda seconds: None) -> Iterator[None]:
        """A block whose time is left out. count: told how many seconds that were."""
        started = self._clock()
        yield
        seconds = self._clock() - started
        self._since += seconds
        count(seconds)

    def read(self, tokens: int) -> tuple[float, float]:
        """Targets per second since the last call, and those seconds."""
        now = self._clock()
        seconds, taken = now - self._since, tokens - self._tokens
        self._tokens, self._since = tokens, now
        return round(taken / seconds if seconds > 0 else 0.0, 1), seconds
