"""What a run writes while it trains: its first files, its lines, its checkpoints."""

import dataclasses
import secrets
from contextlib import ExitStack
from pathlib import Path

from hermes.checkpoint import Checkpoint, Progress, Saver
from hermes.interface import Learner
from hermes.interop.companions import make_companions
from hermes.training.coordination import gather_for_rank0
from hermes.training.events import Evaluation, Position, Update
from hermes.training.metrics_file import MetricsFile
from hermes.training.request import RunComponents, RunRequest, device
from hermes.training.run_yaml import Session, read_sessions, write_runfile

__all__ = ["RunRecorder"]


class RunRecorder:
    """Writes a run's files, in a `with` block; what is being saved at its end is waited for.

    begun_by: the checkpoint that the run goes on from, None for a new one. Raises StorageError.
    """

    def __init__(
        self,
        request: RunRequest,
        parts: RunComponents,
        learner: Learner,
        *,
        begun_by: Checkpoint | None,
    ):
        self._request, self._parts, self._learner = request, parts, learner
        self._id = begun_by.progress.run if begun_by else secrets.token_hex(8)
        self._latest: dict[str, float] = {}
        self._evaluation: Evaluation | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "RunRecorder":
        request, parts = self._request, self._parts
        beside = make_companions(parts.spec, parts.tokenizer, request.tokenizer_settings)
        with ExitStack() as stack:
            self._saver = stack.enter_context(
                Saver(request.output, spec=parts.spec, companions=beside, keep=request.keep)
            )
            self._metrics = stack.enter_context(
                MetricsFile(request.output, after=parts.position.step)
            )
            self._write_head()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]  # handed on as they came

    def _write_head(self) -> None:
        request, parts, step = self._request, self._parts, self._parts.position.step
        parts.tokenizer.save(request.output / "tokenizer.json")
        parts.material.begin(request.output)
        session = Session(step, request.backend.name, device(request), request.options.precision)
        earlier = [one for one in read_sessions(request.output) if one.step < step]
        write_runfile(
            request.output,
            parts.recipe,
            request.settings,
            request.sources,
            [*earlier, session],
            parts.material.reference_weights,
            request.process_group.rank_info.world_size,
        )

    def record(self, event: Update | Evaluation) -> None:
        """Write the line of an event. Raises what went wrong with a save meanwhile."""
        self._saver.check()
        known = {k: v for k, v in dataclasses.asdict(event).items() if v is not None}
        others = known.pop("others")
        self._metrics.write(known | others)
        if isinstance(event, Evaluation):
            self._evaluation = event
        else:
            self._latest = {"loss": event.loss, "lr": event.lr, "grad_norm": event.grad_norm}
            self._latest |= event.others

    def is_saved(self) -> bool:
        """Whether nothing is being saved any more. Raises what went wrong."""
        return self._saver.check()

    def wait(self) -> None:
        """Wait until what is being saved is whole."""
        self._saver.wait()

    def save(self, at: Position) -> Path:
        """Begin to write a checkpoint, after every line so far is on disk."""
        self._metrics.flush()
        request, state = self._request, self._learner.state()
        progress = self._progress(at)
        if not request.options.shard:
            return self._saver.save(state, progress)
        with gather_for_rank0(request.process_group, state) as read:
            return self._saver.save(read, progress, now=True)

    def _progress(self, at: Position) -> Progress:
        request, parts = self._request, self._parts
        return Progress(
            run=self._id,
            step=at.step,
            recipe=parts.recipe,
            tokens=at.tokens,
            epoch=at.cursor.epoch,
            sample=at.cursor.sample,
            total_steps=parts.total_steps,
            metrics=self._numbers(at.step),
            data=parts.material.stream.fingerprint,
            backend=request.backend.name,
            device=device(request),
            precision=request.options.precision,
            versions=request.backend.versions(),
            world_size=request.process_group.rank_info.world_size,
        )

    def _numbers(self, step: int) -> dict[str, float]:
        """The latest of an update, and those of the evaluation of this step if there was one."""
        metrics, evaluation = dict(self._latest), self._evaluation
        if evaluation is not None and evaluation.step == step:
            metrics["val_loss"] = evaluation.val_loss
            if evaluation.val_bits_per_byte is not None:
                metrics["val_bits_per_byte"] = evaluation.val_bits_per_byte
            metrics |= evaluation.others
        return metrics
