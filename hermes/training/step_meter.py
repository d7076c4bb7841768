"""What steps cost besides their time: the share of the device's peak rate, memory, and saving."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from hermes.interface import Batch
from hermes.model_info.cost import count_flops
from hermes.model_info.devices import describe_device, find_peak_rate
from hermes.model_info.memory import read_peak_memory
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

    utilization: the share of the device's peak rate that one position per second is, of rows of
    that many positions; None where it is not known. read_peak: the peak of the device's memory so
    far.
    """

    def __init__(
        self,
        utilization: Callable[[int], float] | None = None,
        read_peak: Callable[[], int | None] = _read_nothing,
    ):
        self._utilization, self._read_peak = utilization, read_peak
        self._share_seconds, self._save_seconds = 0.0, 0.0

    def count_batch(self, batch: Batch) -> None:
        """Count this rank's share of a step, padding too, which is computed like the rest."""
        if self._utilization is not None:
            self._share_seconds += self._utilization(batch.tokens.shape[-1]) * batch.tokens.size

    def add_save(self, seconds: float) -> None:
        """Add the time for which saving held up training."""
        self._save_seconds += seconds

    def read(self, seconds: float) -> StepCost:
        """What the steps since the last call cost, which took so many seconds without saves."""
        share_seconds, saved = self._share_seconds, self._save_seconds
        self._share_seconds, self._save_seconds = 0.0, 0.0
        mfu = None
        if self._utilization is not None and seconds > 0:
            mfu = round(share_seconds / seconds, 4)
        return StepCost(mfu, self._read_peak(), round(saved, 3) if saved else None)


def make_step_meter(request: RunRequest, spec: ModelSpec, recipe: Recipe) -> StepMeter:
    """The meter of a run on its device.

    Model FLOPs utilization is not known where some tensors are frozen, whose gradients are not
    computed. Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    backend, device = request.backend, request.options.device
    rate = find_peak_rate(request.options.precision, describe_device(backend, device))
    trains_all = recipe.lora is None and not (recipe.freeze or recipe.freeze_layers)

    @cache
    def compute_utilization(length: int) -> float:
        assert rate is not None, "only called where it is known"
        return count_flops(spec, training=True, length=length) / rate

    is_known = rate is not None and trains_all
    return StepMeter(
        compute_utilization if is_known else None, lambda: read_peak_memory(backend, device)
    )
