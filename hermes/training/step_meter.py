"""What steps cost besides their time: the share of the device's peak rate, memory, and saving."""

from collections.abc import Callable
from dataclasses import dataclass

from hermes.interface import Batch
from hermes.model_info.devices import describe_device, find_peak_rate
from hermes.model_info.memory import read_peak_memory
from hermes.model_info.step_flops import make_step_flops
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.training.request import RunRequest

__all__ = ["StepCost", "StepMeter", "make_step_meter"]


def _read_nothing() -> int | None:
    return None


@dataclass(frozen=True)
class StepCost:
    """What steps cost; None where it is not known, or nothing was saved."""

    mfu: float | None = None
    peak_memory: int | None = None
    save_seconds: float | None = None


class StepMeter:
    """Adds up what steps cost, until it is read.

    count_seconds: the seconds that a batch takes at the device's peak rate; None where that is not
    known. read_peak: the peak of the device's memory so far.
    """

    def __init__(
        self,
        count_seconds: Callable[[Batch], float] | None = None,
        read_peak: Callable[[], int | None] = _read_nothing,
    ):
        self._count_seconds, self._read_peak = count_seconds, read_peak
        self._peak_seconds, self._save_seconds = 0.0, 0.0

    def count_batch(self, batch: Batch) -> None:
        """Count this rank's share of a step, padding too, which is computed like the rest."""
        if self._count_seconds is not None:
            self._peak_seconds += self._count_seconds(batch)

    def restart(self) -> None:
        """Count batches from here on; saves are still to be told."""
        self._peak_seconds = 0.0

    def add_save(self, seconds: float) -> None:
        """Add the time for which saving held up training."""
        self._save_seconds += seconds

    def read(self, seconds: float) -> StepCost:
        """What the steps since the last call cost, which took so many seconds without saves."""
        at_peak, saved = self._peak_seconds, self._save_seconds
        self._peak_seconds, self._save_seconds = 0.0, 0.0
        mfu = None
        if self._count_seconds is not None and seconds > 0:
            mfu = round(at_peak / seconds, 4)
        return StepCost(mfu, self._read_peak(), round(saved, 3) if saved else None)


def make_step_meter(request: RunRequest, spec: ModelSpec, recipe: Recipe) -> StepMeter:
    """The meter of a run on its device.

    Source of model FLOPs utilization: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    backend, device = request.backend, request.options.device
    rate = find_peak_rate(request.options.precision, describe_device(backend, device))
    flops = make_step_flops(spec, recipe)

    def count_seconds(batch: Batch) -> float:
        assert rate is not None, "only called where it is known"
        return flops.count(batch) / rate

    return StepMeter(
        None if rate is None else count_seconds, lambda: read_peak_memory(backend, device)
    )
