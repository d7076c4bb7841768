"""A running mean of the losses that a run shows, by which a noisy one is judged."""

__all__ = ["SmoothedLoss"]

WEIGHT = 0.9  # of what was before, so that about the last ten logged losses count


class SmoothedLoss:
    """An exponential average of losses, which does not begin with a zero.

    Source: Kingma and Ba 2015, arXiv:1412.6980, section 3, for the division by what is missing.
    """

    def __init__(self) -> None:
        self._sum, self._share = 0.0, 1.0

    def add(self, loss: float) -> float:
        """Take the next loss; the average with it."""
        self._sum = WEIGHT * self._sum + (1 - WEIGHT) * loss
        self._share *= WEIGHT
        return self._sum / (1 - self._share)
