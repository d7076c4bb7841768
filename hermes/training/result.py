"""The result of a training run, collected from its events."""

from dataclasses import dataclass
from pathlib import Path

from hermes.training.events import Evaluation, Event, Saved, Stopped, Update
from hermes.training.run import Run

__all__ = ["Result", "ResultCollector", "TrainResult"]


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A run as it was left.

    loss: of the last logged step that was applied, None where none was; val_*: of the last
    evaluation; in nats per token or pair.
    finished: False where it was stopped; it is saved then, and resume=True continues it. notes:
    sentences about the run that its user should know.
    """

    output: Path
    checkpoint: Path
    steps: int
    finished: bool
    loss: float | None = None
    val_loss: float | None = None
    val_bits_per_byte: float | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        words = [f"step {self.steps:,}", "finished" if self.finished else "stopped"]
        for name in ("loss", "val_loss", "val_bits_per_byte"):
            if (value := getattr(self, name)) is not None:
                words.append(f"{name} {value:.4f}")
        return f"TrainResult({self.checkpoint}: {', '.join(words)})"


Result = TrainResult  # its name until 0.2


class ResultCollector:
    """Follows a run's events; a run without any keeps the numbers of its checkpoint."""

    def __init__(self, run: Run):
        saved = run.checkpoint
        self._output = run.request.output
        self._step, self._path = run.position.step, saved.path if saved else self._output
        self._metrics = dict(saved.progress.metrics) if saved else {}
        self._finished, self._notes = True, run.notes

    def add(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Update():
                self._metrics["loss"] = event.loss
            case Evaluation():
                self._metrics["val_loss"] = event.val_loss
                if event.val_bits_per_byte is not None:
                    self._metrics["val_bits_per_byte"] = event.val_bits_per_byte
            case Saved():
                self._step, self._path = event.step, event.path
            case Stopped():
                self._finished = False

    @property
    def result(self) -> TrainResult:
        """The result so far."""
        known = self._metrics
        return TrainResult(
            self._output,
            self._path,
            self._step,
            self._finished,
            known.get("loss"),
            known.get("val_loss"),
            known.get("val_bits_per_byte"),
            self._notes,
        )
