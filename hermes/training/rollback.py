"""Rolling back: a run goes back to its last checkpoint, and on with the samples after bad steps.

The weights, the optimizer's state and the number of steps are the checkpoint's; the next sample is
the one after the step that ended the row. Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311,
section 5.1. The metrics say where the run goes on, so that one that is killed before its next
checkpoint resumes there, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hermes.data import Cursor
from hermes.data.mixture import MixtureDataset, Phase
from hermes.data.run_data import DataRecord, RunData
from hermes.errors import DataError, NonFinite, StorageError
from hermes.training.metrics_file import read_metrics
from hermes.training.training_data import TrainingData

__all__ = ["LIMIT", "Rollbacks", "find_next_sample", "list_rollbacks", "restore_continuations"]

LIMIT = 3  # rollbacks without a step between them that was made


@dataclass
class Rollbacks:
    """Counts the rollbacks of a run.

    total: of all. in_row: the last ones, between which no step was made. step, skipped: where the
    last one went back to, and how many of the steps up to there were left out.
    """

    total: int = 0
    in_row: int = 0
    step: int = -1
    skipped: int = 0

    def add(self, step: int, skipped: int) -> None:
        """Count a rollback to the checkpoint of a step, up to which some steps were left out."""
        self.in_row = self.in_row + 1 if self._is_in_row(step, skipped) else 1
        self.total, self.step, self.skipped = self.total + 1, step, skipped

    def _is_in_row(self, step: int, skipped: int) -> bool:
        """Whether all steps from the last rollback's checkpoint to this one's were left out.

        A checkpoint in a row of such steps has the weights of the one before.
        """
        return self.step >= 0 and step - self.step == skipped - self.skipped

    def add_all(self, records: Iterable[Mapping[str, float]], until: int) -> None:
        """Count those in a run's metrics, up to step `until`."""
        skipped = 0
        for record in records:
            if record["step"] > until:
                continue
            if "skipped_steps" in record:
                skipped = int(record["skipped_steps"])
            elif "rollbacks" in record:
                self.add(int(record["step"]), skipped)

    def require_more(
        self, back: int, skipped: int, bad_step: int, what: str, saved: Path | None
    ) -> None:
        """Refuse to go back once more where LIMIT times in a row did not help. Raises NonFinite.

        back, skipped: as of `add`. bad_step, what: what the run would go back from.
        """
        if not self._is_in_row(back, skipped) or self.in_row < LIMIT:
            return
        place = saved or "the run's beginning"
        past = f"to {place} {self.in_row} times without reaching its next checkpoint"
        advice = "start from it"
        if back != self.step:
            past = f"{self.in_row} times without a step between that could be made"
            advice = "start from a checkpoint before these"
        raise NonFinite(
            f"step {bad_step}: {what}, and the run has gone back {past}, so training stopped; "
            f"{advice} by --checkpoint with another --output and a lower --lr, or look at the data"
        )


def list_rollbacks(run: Path, step: int) -> list[tuple[int, Cursor]]:
    """The rollbacks that a run's metrics tell of up to `step`: to which, and on from where."""
    if not (run / "metrics.jsonl").exists():
        return []
    return [
        (int(line["step"]), Cursor(int(line["next_epoch"]), int(line["next_sample"])))
        for line in read_metrics(run, skip_odd=True)
        if "rollbacks" in line and line["step"] <= step
    ]


def find_next_sample(run: Path, step: int) -> Cursor | None:
    """Where a run goes on that rolled back to the checkpoint of `step`, None where it did not."""
    found = [cursor for back, cursor in list_rollbacks(run, step) if back == step]
    return found[-1] if found else None


def restore_continuations(data: TrainingData, run: Path, step: int) -> TrainingData:
    """The data of a run that resumes at `step`, after all times that it went back before it.

    data.json has them, but for one after which the run ended at once: that is in its metrics.
    """
    if data.continue_data is None or data.record is None:
        return data
    began, known = _find_continuations(data.record, run, step)
    dataset, record = data.dataset, data.record
    assert isinstance(dataset, MixtureDataset), "the order of others stays as it is"
    for phases in known:
        dataset, record = dataset.continue_with(phases), record.continue_with(phases)
    data = replace(data, dataset=dataset, record=record)
    last = known[-1][0].start if known else -1
    for back, cursor in list_rollbacks(run, step):
        if back >= began and cursor.count_samples(record.size) > last:
            data = data.continue_from(back, cursor)
    return data


def _find_continuations(
    record: DataRecord, run: Path, step: int
) -> tuple[int, Sequence[Sequence[Phase]]]:
    """The step from which on a run had this data, and the phases after each time it went back."""
    began: int | None = None
    known: Sequence[Sequence[Phase]] = ()
    with suppress(DataError, StorageError):
        found = RunData.read(run)
        for session in found.sessions:
            own = found.records[session.data]
            if session.step <= step and own.fingerprint == record.fingerprint:
                began, known = session.step if began is None else began, own.continuations
            elif session.step <= step:
                began, known = None, ()
    return began or 0, known
