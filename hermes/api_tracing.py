"""The public functions that tell which steps of a run read a document, and what a step read."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.checkpoint import list_steps
from hermes.data.order import split_windows
from hermes.data.prepared import is_prepared, open_prepared
from hermes.data.run_data import (
    DataRecord,
    RunData,
    SessionRecord,
    SourceRecord,
    open_source_tokens,
)
from hermes.data.tracing import DocumentTrace, RunTrace, TracedSample
from hermes.errors import DataError, HermesError
from hermes.interop.hub import load_tokenizer
from hermes.recipe import Recipe
from hermes.tokenizer import Tokenizer
from hermes.training.metrics_file import read_last_step

__all__ = ["ShownSample", "count_steps_done", "show_step", "trace_document", "trace_step"]

DEFAULTS = {"seq_len": 256, "batch_size": Recipe().batch_size, "grad_accum": 1, "seed": 0}


@name_own_arguments
def trace_document(run: str | Path, document: str) -> tuple[DocumentTrace, ...]:
    """Tell which steps of a run on text read a document, and which are still to read it.

    document: 'file:line', where it begins in the data; of Parquet, .json and token files the line
    is its number, from 1. Answers come from the index alone; there is one for each document of
    that place. Raises DataError, StorageError.
    """
    a = convert_arguments(trace_document, locals())
    folder = Path(run)
    return RunTrace(folder).trace_document(a["document"], count_steps_done(folder))


@name_own_arguments
def trace_step(run: str | Path, step: int) -> tuple[TracedSample, ...]:
    """Tell which documents an optimizer step of a run on text read or will read, row by row.

    step: from 1. Raises DataError, StorageError.
    """
    a = convert_arguments(trace_step, locals())
    return RunTrace(Path(run)).trace_step(a["step"])


def count_steps_done(run: Path) -> int:
    """Count the steps that a run has made, by its checkpoints and metrics."""
    return max(read_last_step(run), *(step for step, _ in list_steps(run)[:1]), 0)


@dataclass(frozen=True)
class ShownSample:
    """A row of a step with its text, special tokens by their names."""

    sample: TracedSample
    text: str


@name_own_arguments
def show_step(
    folder: str | Path,
    step: int = 1,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    seq_len: int | None = None,
    batch_size: int | None = None,
    grad_accum: int | None = None,
    seed: int | None = None,
    val_fraction: float | None = None,
) -> tuple[ShownSample, ...]:
    """Read the sequences that an optimizer step of a run read or will read.

    folder: a run, or a folder that `prepare` made, for what a run of one process on it takes.
    tokenizer: None for the folder's own. seq_len to val_fraction: of such a run, None for the
    defaults of `train`; a run has its own. Raises DataError, StorageError.
    """
    a = convert_arguments(show_step, locals())
    where = Path(folder)
    given = {name: a[name] for name in (*DEFAULTS, "val_fraction") if a[name] is not None}
    if is_prepared(where):
        trace = RunTrace(where, _plan_run(where, **{**DEFAULTS, "val_fraction": 0.0, **given}))
    elif given:
        raise HermesError(f"{next(iter(given))} is the run's own; leave it out")
    else:
        trace = RunTrace(where)
    made = tokenizer
    if not isinstance(made, Tokenizer):
        made = load_tokenizer(where if made is None else made)
    samples = trace.trace_step(a["step"])
    record = trace.data.records[trace.find_session(a["step"]).data]
    windows = trace.list_windows(a["step"])
    texts = [""] * len(samples)
    for number in sorted({window.source for window in windows}):
        with closing(open_source_tokens(record, record.trained[number], made)) as stream:
            for row, window in enumerate(windows):
                if window.source == number:
                    ids = stream.read(window.start, window.stop)
                    texts[row] = made.decode(ids, skip_special=False)
    return tuple(map(ShownSample, samples, texts))


def _plan_run(
    folder: Path,
    *,
    seq_len: int,
    batch_size: int,
    grad_accum: int,
    seed: int,
    val_fraction: float,
) -> RunData:
    """The data of a run of one epoch that `train` would make on prepared text."""
    for name, value in (("seq_len", seq_len), ("batch_size", batch_size)):
        if value < 1:
            raise DataError(f"{name} must be at least 1, got {value}")
    stream = open_prepared(folder)
    train, held_out = split_windows(len(stream), val_fraction, seq_len)
    source = SourceRecord(
        (str(folder),),
        stream.fingerprint,
        len(stream),
        stream.documents,
        len(train),
        len(held_out),
        index=str(folder),
    )
    record = DataRecord(stream.fingerprint, seq_len, seed, (source,))
    steps = -(-len(train) // (batch_size * grad_accum))
    session = SessionRecord(0, 0, batch_size, grad_accum, 1, steps, last=len(train))
    return RunData((record,), (session,))
