"""A running mean of the losses that a run shows, by which a noisy one is judged."""

from collections.abc import Iterable

__all__ = ["SmoothedLoss"]

WEIGHT = 0.9  # of what was before, so that about the last ten logged losses count


class SmoothedLoss:
    """An exponential average of losses, which does not begin with a zero.

    before: losses of the run up to here, as of one that is resumed.

    Source: Kingma and Ba 2015, arXiv:1412.6980, section 3, for the division by what is missing.
    """

    def __init__(self, before: Iterable[float] = ()) -> None:
        self._sum, self._share = 0.0, 1.0
        for loss in before:
            self.add(loss)

    def add(self, loss: float) -> float:
        """Take the next loss; the average with it."""
        self._sum = WEIGHT * self._sum + (1 - WEIGHT) * loss
        self._share *= WEIGHT
        return self._sum / (1 - self._share)
