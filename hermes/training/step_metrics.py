"""The metrics of a logged step, of all ranks together."""

from hermes.numerics.gradient_noise import GradientNoise
from hermes.training.coordination import RankCoordinator
from hermes.training.events import Update
from hermes.training.pending_step import PendingStep
from hermes.training.step_meter import StepCost
from hermes.training.training_data import TrainingData

__all__ = ["make_update"]


def make_update(
    step: PendingStep,
    loss: float,
    grad_norm: float,
    *,
    tokens_per_second: float,
    cost: StepCost,
    data: TrainingData,
    coordinator: RankCoordinator,
    noise: GradientNoise | None,
) -> Update:
    """The event of a step that is read. Collective: every rank makes it.

    loss, grad_norm, noise: as `Update` has them. data: measures this rank's own share.
    """
    at, size, batch = step.position, len(data.dataset.train), step.batch
    # A rank without samples has nothing to measure; it takes part in the mean with weight 0.
    own = data.measure(batch, step.report) if batch.num_terms else {}
    others = coordinator.average_measures(own, batch.num_terms)
    averages = {} if noise is None else noise.read()
    pace, peak = coordinator.measure_pace(), cost.peak_memory
    return Update(
        at.step,
        epoch=round(at.cursor.count_samples(size) / size, 6),
        tokens=at.tokens,
        loss=loss,
        lr=step.lr,
        grad_norm=grad_norm,
        tokens_per_second=tokens_per_second,
        others=others,
        mfu=cost.mfu,
        peak_memory=None if peak is None else coordinator.find_largest(peak),
        save_seconds=cost.save_seconds,
        slowest_rank=None if pace is None else pace.slowest,
        slowest_over_mean=None if pace is None else pace.over_mean,
        loss_scale=step.loss_scale,
        grad_noise_scale=averages.get("grad_noise_scale"),
        grad_signal=averages.get("grad_signal"),
        grad_noise=averages.get("grad_noise"),
    )
