"""What a resumed run takes from the metrics of its earlier sessions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from hermes.checkpoint import Checkpoint
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.numerics.gradient_noise import GradientNoise
from hermes.training.early_stopping import EarlyStopping
from hermes.training.loss_guard import LossGuard
from hermes.training.metrics_file import find_odd_lines, read_metrics
from hermes.training.nonfinite import NonFinitePolicy
from hermes.training.recording import is_due
from hermes.training.request import RunComponents, RunRequest
from hermes.training.spikes import SpikePolicy
from hermes.training.task_rounds import has_scores

__all__ = ["PastSteps"]


@dataclass(frozen=True)
class PastSteps:
    """The steps of a run before this session. checkpoint: what it resumes from; None if new."""

    request: RunRequest
    parts: RunComponents
    checkpoint: Checkpoint | None

    @property
    def step(self) -> int:
        """The last of them."""
        return self.parts.position.step

    @cached_property
    def metrics(self) -> Sequence[Mapping[str, float]]:
        """The lines of the run's metrics, those after the checkpoint too; () for a new run."""
        known = (self.request.output / "metrics.jsonl").exists()
        if self.checkpoint is None or not known:
            return ()
        return read_metrics(self.request.output, skip_odd=True)

    def warn_odd_lines(self) -> tuple[str, ...]:
        """What to tell the user of lines that are no metrics."""
        odd = find_odd_lines(self.request.output)
        if not odd:
            return ()
        shown = ", ".join(map(str, odd[:10])) + (", ..." if len(odd) > 10 else "")
        return (
            f"{self.request.output / 'metrics.jsonl'} has {format_count(len(odd), 'lines')} "
            f"that are no metrics, set aside in metrics-odd.jsonl: {shown}",
        )

    def warn_lost_metrics(self) -> tuple[str, ...]:
        """What to tell the user where a resumed run's metrics.jsonl is lost."""
        path = self.request.output / "metrics.jsonl"
        if path.exists() or self.checkpoint is None or self.step == 0:
            return ()
        return (
            f"{path} is gone, and with it the lines up to step {self.step:,}; a new one begins",
        )

    def is_evaluation_missing(self) -> bool:
        """Whether an evaluation is due at the step that the run resumes from, and is missing."""
        if self.checkpoint is None:  # of the run that it continues, if any
            return False
        every, total = self.parts.recipe.eval_every, self.parts.total_steps
        held_out = self.parts.training_data.dataset.held_out
        if not held_out or not is_due(self.step, every, total):
            return False
        return not any(line["step"] == self.step and "val_loss" in line for line in self.metrics)

    def are_tasks_missing(self) -> bool:
        """Whether tasks are due at the step that the run resumes from, and have no scores.

        They are where it ended early, too.
        """
        tasks = self.request.tasks
        if self.checkpoint is None or tasks is None:
            return False
        ended_early = self.restore_early_stopping().exhausted
        if not ended_early and not is_due(self.step, tasks.every, self.parts.total_steps):
            return False
        return not any(line["step"] == self.step and has_scores(line) for line in self.metrics)

    def restore_early_stopping(self) -> EarlyStopping:
        """Early stopping as far as the run's metrics have taken it."""
        stopping = EarlyStopping(self.request.patience, self.request.min_delta)
        if self.request.patience:
            stopping.add_all(self.metrics, self.step)
        return stopping

    def restore_noise(self) -> GradientNoise | None:
        """The averages of the gradients' noise; None where it is not measured. Raises HermesError.

        A run whose earlier steps were not measured begins with none.
        """
        if not self.request.gradient_noise_scale:
            return None
        if self.request.options.shard:
            raise HermesError(
                "--gradient-noise-scale needs gradients that are whole in each process, and "
                "--shard splits them; leave out one of the two"
            )
        if self.parts.recipe.grad_accum < 2:
            raise HermesError(
                "--gradient-noise-scale compares a micro-batch with the whole step, so it needs "
                "--grad-accum of at least 2, and it is 1"
            )
        saved = None if self.checkpoint is None else self.checkpoint.progress.gradient_noise
        return GradientNoise.from_numbers(saved or ())

    def restore_guard(self) -> LossGuard:
        """What became of bad steps. Raises HermesError for a policy that is none."""
        request = self.request
        spikes = SpikePolicy.parse(request.on_spike, request.spike_sigma, request.spike_window)
        guard = LossGuard(NonFinitePolicy.parse(request.on_nonfinite), spikes)
        if self.checkpoint is not None:
            guard.restore(self.metrics, self.step, self.checkpoint.progress.recent_losses)
        return guard
