"""Saves by the clock, besides those by steps."""

import math
import time
from collections.abc import Callable

from hermes.errors import HermesError

__all__ = ["SaveTimer"]


class SaveTimer:
    """Says when `minutes` have passed since the last checkpoint, or since the start; 0: never.

    Raises HermesError for what is no time.
    """

    def __init__(self, minutes: float = 0.0, clock: Callable[[], float] = time.monotonic):
        if not 0 <= minutes < math.inf:
            raise HermesError(f"--save-minutes must be at least 0, got {minutes}")
        self._seconds, self._clock = 60 * minutes, clock
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._since = self._clock()

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return self._seconds > 0 and self._clock() - self._since >= self._seconds
