"""Writes a run's files while it trains: run.yaml, tokenizer.json, metrics and checkpoints."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from hermes.checkpoint import Companions, Progress, Saver
from hermes.checkpoint.layout import TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_MANIFEST
from hermes.distributed.process_group import HasSideGroup
from hermes.errors import StorageError
from hermes.interface import Learner
from hermes.interop.companions import make_companions
from hermes.storage.durable import write_atomically
from hermes.training.coordination import gather_for_rank0, watch_saving
from hermes.training.data_record import write_data_record
from hermes.training.events import (
    Evaluation,
    Position,
    Recorded,
    RolledBack,
    Sample,
    Update,
    make_record,
)
from hermes.training.metrics_file import MetricsFile
from hermes.training.request import RunComponents, RunRequest
from hermes.training.run_yaml import Session, read_sessions, write_runfile
from hermes.training.samples import SampleFile
from hermes.training.surroundings import DataFiles, RunFolder
from hermes.training.text_boundaries import describe_boundaries

__all__ = ["RunRecorder"]


class RunRecorder:
    """Rank 0's recorder, a `with` block that opens the files and waits for the last save.

    run_id: the run's in its checkpoints. Raises StorageError.
    """

    def __init__(
        self,
        request: RunRequest,
        components: RunComponents,
        learner: Learner,
        run_id: str,
    ):
        self._request, self._components = request, components
        self._learner: Learner | None = learner
        self._id = run_id
        self._latest: dict[str, float] = {}
        self._evaluation: Evaluation | None = None
        self._samples: SampleFile | None = None
        self._begun = self._last = components.position
        self._sessions: list[Session] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        request, parts = self._request, self._components
        self._folder = RunFolder(request.output)
        self._data = DataFiles(request.data, request.validation)
        self._data.warn_repeated()
        beside = make_companions(parts.spec, parts.tokenizer, request.tokenizer_settings)
        with ExitStack() as stack:
            self._saver = stack.enter_context(
                Saver(request.output, spec=parts.spec, companions=beside, keep=request.keep)
            )
            self._metrics = stack.enter_context(
                # A run from the beginning keeps nothing of one that was lost.
                MetricsFile(request.output, after=parts.position.step or -1)
            )
            self._write_first_files(beside)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # handed on as they came
        if self._last == self._begun:
            return
        # What ended the run says more than that this could not be written.
        with suppress(*[StorageError] if error and error[0] else []), self._folder.explain_errors():
            self._folder.require_in_place()
            self._write_runfile()

    def _write_first_files(self, beside: Companions) -> None:
        request, parts = self._request, self._components
        step = parts.position.step
        # With what tokens mean, so that the file alone gives another run the same ends of text.
        rendered = beside.render()
        for name in (TOKENIZER, TOKENIZER_CONFIG, TOKENIZER_MANIFEST):
            if name in rendered:
                write_atomically(request.output / name, rendered[name])
        parts.training_data.write_files(request.output)
        write_data_record(request, parts)
        session = Session(step, request.backend.name, request.device, request.options.precision)
        earlier = [one for one in read_sessions(request.output) if one.step < step]
        self._sessions = [*earlier, session]
        self._write_runfile()

    def _write_runfile(self) -> None:
        request, parts, at = self._request, self._components, self._last
        size = len(parts.training_data.dataset.train)
        trained = {"steps": at.step, "epochs": round(at.cursor.count_samples(size) / size, 6)}
        write_runfile(
            request.output,
            parts.recipe,
            {**request.settings, **describe_boundaries(parts.tokenizer)},
            request.sources,
            self._sessions,
            parts.training_data.reference_weights,
            request.world_size,
            trained,
        )

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """A context in which a save fails by the name of its folder, or of a lost rank."""
        with self._folder.explain_errors(), watch_saving(self._request.process_group):
            yield

    def record(self, event: Recorded) -> None:
        """Write the event's line of metrics. Raises the error of a save that failed meanwhile."""
        with self._explain_errors():
            self._saver.check()
        self._metrics.write(make_record(event))
        if isinstance(event, Evaluation):
            self._evaluation = event
        elif isinstance(event, Update):
            self._latest = {"loss": event.loss, "lr": event.lr, "grad_norm": event.grad_norm}
            self._latest |= event.others

    def record_sample(self, sample: Sample) -> None:
        """Write a sample."""
        if self._samples is None:
            self._samples = SampleFile(self._request.output, after=self._components.position.step)
            self._stack.callback(self._samples.close)
        self._samples.write(sample)

    def is_saved(self) -> bool:
        """Whether the last checkpoint is whole on disk. Raises the error of a save that failed."""
        with self._explain_errors():
            return self._saver.check()

    def wait(self) -> None:
        """Wait until the last checkpoint is whole on disk. Raises the error of a failed save."""
        with self._explain_errors():
            self._saver.wait()

    def use_learner(self, learner: Learner | None) -> None:
        """Save another learner's state from now on; None lets go of the one before."""
        self._learner = learner

    def roll_back(self, event: RolledBack, position: Position) -> None:
        """Cut what was written of later steps, and write down where the run goes on."""
        data = self._components.training_data.continue_from(event.step, position.cursor)
        self._components = replace(
            self._components,
            training_data=data,
            position=position,
            total_steps=event.total_steps,
        )
        self._latest, self._evaluation = {}, None  # as in a run that resumes there
        self._metrics.cut(after=position.step)
        if self._samples is not None:
            self._samples.cut(after=position.step)
        self._metrics.write(make_record(event))
        self._metrics.flush()
        write_data_record(self._request, self._components)

    def save(
        self, position: Position, losses: tuple[float, ...] = (), noise: tuple[float, ...] = ()
    ) -> Path:
        """Start to write a checkpoint, once every line so far is on disk. Returns its path."""
        assert self._learner is not None, "a run that rolls back saves nothing meanwhile"
        self._folder.require_in_place()
        self._data.warn_changed()
        self._metrics.flush()
        self._last = position
        request, state = self._request, self._learner.state()
        progress = replace(
            self._make_progress(position), recent_losses=losses, gradient_noise=noise
        )
        group, lead = request.process_group, None
        if request.options.shard:
            assert isinstance(group, HasSideGroup), "a backend that splits a model has one"
            lead = partial(gather_for_rank0, group.open_side_group())
        with self._explain_errors():
            return self._saver.save(state, progress, lead=lead)

    def _make_progress(self, at: Position) -> Progress:
        request, parts = self._request, self._components
        return Progress(
            run=self._id,
            step=at.step,
            recipe=parts.recipe,
            tokens=at.tokens,
            epoch=at.cursor.epoch,
            sample=at.cursor.sample,
            total_steps=parts.total_steps,
            metrics=self._collect_metrics(at.step),
            data=parts.training_data.tokens.fingerprint,
            backend=request.backend.name,
            device=request.device,
            precision=request.options.precision,
            versions=request.backend.versions(),
            world_size=request.world_size,
        )

    def _collect_metrics(self, step: int) -> dict[str, float]:
        """The numbers of the latest logged step, and those of this step's evaluation, if any."""
        metrics, evaluation = dict(self._latest), self._evaluation
        if evaluation is not None and evaluation.step == step:
            metrics["val_loss"] = evaluation.val_loss
            if evaluation.val_bits_per_byte is not None:
                metrics["val_bits_per_byte"] = evaluation.val_bits_per_byte
            metrics |= evaluation.others
        return metrics
