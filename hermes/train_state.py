"""What a learner starts from and hands back: weights, optimizer state and outcomes of steps."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import SupportsFloat

from numpy.typing import ArrayLike

from hermes.decoders import Array, Tensors
from hermes.errors import HermesError

__all__ = ["MOMENTS", "LazyTensors", "LossScale", "StepReport", "TrainState"]

MOMENTS = ("exp_avg", "exp_avg_sq")


class LazyTensors(Mapping[str, Array]):
    """Tensors by name, each made by `make(name)` when it is read, and not cached.

    Later steps must not change a tensor once made, so that it can be saved without a copy.
    steady: those that any thread may make at any later time, with the same values. stage: begins
    to copy a tensor to the host while the device goes on, and returns what waits for the copy and
    gives it, from any thread; None where `make` is all there is to do.
    """

    def __init__(
        self,
        names: Iterable[str],
        make: Callable[[str], Array],
        steady: Iterable[str] = (),
        stage: Callable[[str], Callable[[], Array]] | None = None,
    ):
        self._names = dict.fromkeys(names)
        self._make = make
        self.steady, self.stage = frozenset(steady), stage

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class LossScale:
    """What a learner under float16 multiplies the loss by, and for how many finite steps it has.

    scale: of the next step. good_steps: steps in a row with finite gradients since it last changed.
    `hermes.recipe.LossScaling` has the rule.
    """

    scale: float
    good_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf") or self.good_steps < 0:
            raise HermesError(
                f"a loss scale is above 0, and its good steps are at least 0, got {self.scale} and "
                f"{self.good_steps}"
            )


@dataclass(frozen=True)
class StepReport:
    """The outcome of an optimizer step. Its numbers are lazy: reading one waits for the device.

    loss: mean over the batch before the update, in nats per target (or the loss per pair).
    grad_norm: global, before clipping. If either is not finite, the update was not applied.
    row_logprobs: of a batch with pairs or sources, each row's summed log-probability of its
    targets, (A, B), by np.asarray; of this rank's rows alone. loss_scale: what the loss was
    multiplied by for the gradients, under float16; loss and grad_norm are without it. first_norm:
    of a batch that measures noise and has several micro-batches, the norm of what the first of them
    adds to the gradient; of this rank's own, and without the loss scale. applied: of a batch with a
    loss_limit, 1 where the update was applied, and 0 where it was not. runs_ahead: whether the
    device may still be computing the step; its numbers wait for this step alone, so that reading
    them behind the next one leaves the device no pause.
    """

    step: int
    loss: SupportsFloat
    grad_norm: SupportsFloat
    row_logprobs: ArrayLike | None = None
    loss_scale: SupportsFloat | None = None
    first_norm: SupportsFloat | None = None
    applied: SupportsFloat | None = None
    runs_ahead: bool = False


@dataclass(frozen=True)
class TrainState:
    """Weights and what the optimizer keeps, both by parameter name, and the number of steps done.

    exp_avg, exp_avg_sq: first and second moments of the tensors that have them. more: the other
    slots of `hermes.numerics.update_rules`, by name. What is not there counts as zeros.
    can_reread: whether params can be read at any later time, from any thread, and are the same
    then, as those of a file; frozen ones need not be kept whole in memory. loss_scale: of a learner
    under float16; others leave it aside.
    """

    params: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors
    step: int
    more: Mapping[str, Tensors] = field(default_factory=dict)
    can_reread: bool = False
    loss_scale: LossScale | None = None

    @classmethod
    def from_slots(
        cls,
        params: Tensors,
        slots: Mapping[str, Tensors],
        step: int,
        loss_scale: LossScale | None = None,
    ) -> "TrainState":
        """The state with what the optimizer keeps by slot."""
        more = {slot: held for slot, held in slots.items() if slot not in MOMENTS}
        first, second = (slots.get(slot, {}) for slot in MOMENTS)
        return cls(params, first, second, step, more, loss_scale=loss_scale)

    @property
    def slots(self) -> Mapping[str, Tensors]:
        """What the optimizer keeps, by slot; those in use alone."""
        both = dict(zip(MOMENTS, (self.exp_avg, self.exp_avg_sq), strict=True))
        return {slot: held for slot, held in {**both, **self.more}.items() if held}
