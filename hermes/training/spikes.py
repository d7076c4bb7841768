"""What a run does about a step whose loss is far above those before it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np

from hermes.errors import HermesError
from hermes.training.nonfinite import DEFAULT_LIMIT, read_limit

__all__ = ["SpikePolicy"]


@dataclass
class SpikePolicy:
    """Finds loss spikes: losses above mean + sigma standard deviations of the last `window` ones.

    A loss is judged once half the window is there; that of a spike does not enter it. limit: so
    many spikes in a row are too many, 0 where they are only counted. rolls_back: the run then goes
    back to its last checkpoint and on with the samples after them; else it stops. skips: no spike
    is applied, for which each loss is read before the next step. The losses of
    the window are in each checkpoint, so a resumed run finds the spikes that an unbroken one does.
    Source of the remedy: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5.1; of the
    criterion: OLMo et al. 2024, arXiv:2501.00656, section 3.2. Raises HermesError.
    """

    sigma: float = 6.0
    window: int = 128
    limit: int = 0
    rolls_back: bool = False
    skips: bool = False
    looks: bool = False
    total: int = 0
    in_row: int = 0
    last: int = -1
    losses: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise HermesError(f"--spike-sigma must be above 0, got {self.sigma}")
        if self.window < 4:
            raise HermesError(f"--spike-window must be at least 4, got {self.window}")

    @classmethod
    def parse(cls, text: str, sigma: float = 6.0, window: int = 128) -> "SpikePolicy":
        """The policy of --on-spike. Raises HermesError."""
        action = text.partition(":")[0]
        limit = read_limit(text, DEFAULT_LIMIT if action == "skip" else 1)
        if text == "ignore":
            return cls(sigma, window)
        if text == "count":
            return cls(sigma, window, looks=True)
        if action in ("stop", "skip", "rollback") and limit:
            rolls_back, skips = action == "rollback", action == "skip"
            return cls(sigma, window, limit, rolls_back=rolls_back, skips=skips, looks=True)
        raise HermesError(
            "--on-spike must be ignore, count, stop, stop:N, skip, skip:N, rollback or rollback:N "
            f"with N at least 1, got {text!r}"
        )

    @property
    def exhausted(self) -> bool:
        """Whether as many in a row as the limit have been counted."""
        return 0 < self.limit <= self.in_row

    def find_limit(self) -> float:
        """The loss, a number of float32, above which the next step is a spike; inf for any."""
        if 2 * len(self.losses) < self.window:
            return math.inf
        limit = fmean(self.losses) + self.sigma * pstdev(self.losses)
        # As a device that computes in float32 compares it.
        with np.errstate(over="ignore"):
            return float(np.float32(limit))

    def find(self, step: int, loss: float) -> str | None:
        """Take the finite loss of the next step; what to say of a spike, None where it is none."""
        if not self.looks:
            return None
        if loss > self.find_limit():
            self._add(step)
            mean, deviation = fmean(self.losses), pstdev(self.losses)
            return (
                f"the loss is {loss:.4f}, where the last {len(self.losses)} were "
                f"{mean:.4f} with a standard deviation of {deviation:.4f}"
            )
        self.losses = (*self.losses, loss)[-self.window :]
        return None

    def _add(self, step: int) -> None:
        self.in_row = self.in_row + 1 if step == self.last + 1 else 1
        self.total, self.last = self.total + 1, step

    def end_row(self) -> None:
        """Begin to count anew, as the run continues with other samples."""
        self.in_row, self.last = 0, -1

    def restore(
        self, losses: tuple[float, ...], records: Iterable[Mapping[str, float]], until: int
    ) -> None:
        """Take up the losses in a checkpoint, and the spikes in the metrics up to step `until`."""
        self.losses = losses[-self.window :] if self.looks else ()
        for record in records:
            if record["step"] > until:
                continue
            if "spikes" in record:
                self._add(int(record["step"]))
            elif "rollbacks" in record:
                self.end_row()
