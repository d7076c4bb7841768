"""data.json of a run: what its samples were made of, and which samples each session took.

With it and the documents' indexes every sample that a run took, or will take, can be found without
reading a token. A run that was resumed with other data has several records; a session names its
own.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hermes.data.bad_records import BadRecordError
from hermes.data.document_index import (
    DocumentIndex,
    IndexPart,
    IndexSource,
    open_index_rows,
)
from hermes.data.document_reader import TextFormat, choose_format, is_line_exact
from hermes.data.files import STANDARD_INPUT
from hermes.data.loading import DataOptions, load_tokens
from hermes.data.mixture_blocks import AS_SHUFFLED, Phase
from hermes.data.prepared.documents import open_index
from hermes.data.prepared.manifest import read_manifest
from hermes.data.stream_index import scan_documents
from hermes.data.token_shards import ID_TYPES, TokenFile, iterate_blocks
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError, HermesError, StorageError, explain_os_error
from hermes.storage.durable import write_atomically
from hermes.storage.path_kinds import RUN, describe_kind, say_kind
from hermes.storage.plain_json import load_json
from hermes.storage.typed_json import build_typed

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = [
    "NAME",
    "DataRecord",
    "RunData",
    "SessionRecord",
    "SourceRecord",
    "open_source_index",
    "open_source_tokens",
]

NAME = "data.json"
FORMAT, VERSION = "hermes run data", 3


@dataclass(frozen=True)
class SourceRecord:
    """A stream of tokens that a run takes windows, or documents, from.

    data: as given, files by their absolute names. train, held_out: how many samples, in that order;
    where held_from is given, windows held out begin with that token, and train ones end before it.
    index: the folder of prepared tokens, or the file in the run's folder, of the documents
    in `sources`; "" where they are found in `token_files`: path, type of ids, tokens, offset.
    """

    data: tuple[str, ...]
    fingerprint: str
    tokens: int
    documents: int
    train: int
    held_out: int
    share: float | None = None
    index: str = ""
    sources: tuple[str, ...] = ()
    token_files: tuple[tuple[str, str, int, int], ...] = ()
    held_from: int | None = None


@dataclass(frozen=True)
class DataRecord:
    """The data of a run: windows of seq_len targets of one stream, or of a mixture of several.

    validation: a stream of its own, of which all is held out. eos_id: the token that ends
    documents. options: how text is read. overlong: what becomes of documents longer than a row,
    where each document has one; "" where rows are windows. later: the samples from which on the
    shares are others, with those. continued: such phases once more, from the sample on at which the
    run went on after each time that it went back. numbering: of a mixture's samples, as in
    MixtureOrder; files of version 2 do not name theirs.
    """

    fingerprint: str
    seq_len: int
    seed: int
    trained: tuple[SourceRecord, ...]
    validation: SourceRecord | None = None
    eos_id: int | None = None
    options: TextFormat = field(default_factory=TextFormat)
    max_bad_records: float | None = None
    overlong: str = ""
    later: tuple[tuple[int, tuple[float, ...]], ...] = ()
    continued: tuple[tuple[tuple[int, tuple[float, ...]], ...], ...] = ()
    numbering: int = AS_SHUFFLED

    def continue_with(self, phases: Sequence[Phase]) -> "DataRecord":
        """The record of a run that went back, and on with these phases."""
        own = tuple((phase.start, phase.shares) for phase in phases)
        return replace(self, continued=(*self.continued, own))

    @property
    def continuations(self) -> tuple[tuple[Phase, ...], ...]:
        """The phases from each sample on at which the run went on after it went back."""
        return tuple(tuple(Phase(*one) for one in phases) for phases in self.continued)

    @property
    def size(self) -> int:
        """Samples of an epoch."""
        return sum(one.train for one in self.trained)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The shares of the sources, by samples; () where there is one stream."""
        shares = tuple(one.share for one in self.trained if one.share is not None)
        return (Phase(0, shares), *(Phase(*one) for one in self.later)) if shares else ()


@dataclass(frozen=True)
class SessionRecord:
    """A stretch of a run after `step`: its first sample, and how many a step takes.

    sample: counted from the run's first, through all epochs. last: the run's last sample, None
    where steps end it. data: the number of its record. batch_size: rows of a micro-batch.
    """

    step: int
    sample: int
    batch_size: int
    grad_accum: int
    world_size: int
    total_steps: int
    last: int | None = None
    data: int = 0

    @property
    def per_step(self) -> int:
        """Samples of a step, but for the run's last."""
        return self.batch_size * self.grad_accum * self.world_size

    def list_samples(self, step: int) -> range:
        """The samples of a step after this session's first."""
        first = self.sample + (step - self.step - 1) * self.per_step
        end = first + self.per_step
        return range(first, end if self.last is None else min(end, self.last))

    def find_step(self, sample: int) -> int:
        """The step that takes a sample."""
        return self.step + 1 + (sample - self.sample) // self.per_step


@dataclass(frozen=True)
class RunData:
    """The records of a run and its sessions, in order."""

    records: tuple[DataRecord, ...] = ()
    sessions: tuple[SessionRecord, ...] = ()

    def add(self, record: DataRecord, session: SessionRecord) -> "RunData":
        """Add a session, in place of those that began where it begins or later."""
        sessions = [one for one in self.sessions if one.step < session.step]
        kept = sorted({one.data for one in sessions})
        records = [self.records[number] for number in kept]
        sessions = [_replace_data(one, kept.index(one.data)) for one in sessions]
        if record not in records:
            records.append(record)
        session = _replace_data(session, records.index(record))
        return RunData(tuple(records), (*sessions, session))

    def end_at(self, step: int) -> "RunData":
        """Keep what is known of the steps up to one, where the run's data is no longer traced."""
        kept = [one for one in self.sessions if one.step < step]
        if kept:
            kept[-1] = SessionRecord(**{**asdict(kept[-1]), "total_steps": step})
        return RunData(self.records, tuple(kept))

    def write(self, run: Path) -> None:
        """Write a run's data.json. Raises StorageError."""
        is_shuffled = all(one.numbering == AS_SHUFFLED for one in self.records)
        version = 2 if is_shuffled else VERSION  # what older versions can read, they do
        facts = {"format": FORMAT, "version": version, **asdict(self)}
        for record in facts["records"]:
            if not record["continued"]:  # which older versions do not know
                del record["continued"]
            if record["numbering"] == AS_SHUFFLED:
                del record["numbering"]
        write_atomically(run / NAME, (json.dumps(facts, indent=1) + "\n").encode())

    @classmethod
    def read(cls, run: Path) -> "RunData":
        """Read a run's data.json. Raises DataError, StorageError."""
        path = run / NAME
        try:
            found = load_json(path.read_bytes())
            own = dict(found) if isinstance(found, dict) else {}
            kind, version = own.pop("format", None), own.pop("version", None)
            if kind != FORMAT or type(version) is not int or version > VERSION:
                raise ValueError(f"its format is {kind!r}, version {version!r}")
            data = cast(RunData, build_typed(cls, own, "it"))
            data._require_possible()
        except (FileNotFoundError, NotADirectoryError):
            if not run.exists():
                raise DataError(f"{run}: no such folder; name a run of train or finetune") from None
            if describe_kind(run) not in ("", RUN):
                raise DataError(f"{say_kind(run)}; name a run of train or finetune") from None
            raise DataError(
                f"{run} has no {NAME}: it is no run of train or finetune on text; or it was begun "
                "by an older version, and gets one when it is resumed"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
        except (ValueError, HermesError) as error:
            raise DataError(f"{path}: not the data of a run ({error}); remove it") from None
        return data

    def _require_possible(self) -> None:
        """Raise ValueError for numbers that no run has."""
        for one in self.sessions:
            if not 0 <= one.data < len(self.records):
                raise ValueError("a session names a record that is not there")
            if min(one.batch_size, one.grad_accum, one.world_size) < 1 or one.step < 0:
                raise ValueError("a session takes no samples")
        for record in self.records:
            if record.seq_len < 1 or not record.trained:
                raise ValueError("a record has no samples")
            streams = (*record.trained, *([record.validation] if record.validation else []))
            for stream in streams:
                if min(stream.tokens, stream.documents, stream.train, stream.held_out) < 0:
                    raise ValueError("a stream has less than no tokens")
                if any(dtype not in ID_TYPES for _, dtype, _, _ in stream.token_files):
                    raise ValueError("a file of tokens has ids of another type")


def _replace_data(session: SessionRecord, number: int) -> SessionRecord:
    return SessionRecord(**{**asdict(session), "data": number})


def open_source_tokens(
    record: DataRecord, source: SourceRecord, tokenizer: "Tokenizer"
) -> TokenStream:
    """Open a source's tokens, or tokenize its text once more. To be closed.

    Raises DataError where they are not what the run read, and StorageError.
    """
    options = DataOptions(record.options, record.max_bad_records)
    if str(STANDARD_INPUT) in source.data:
        raise DataError(
            "the run read standard input, which is not kept; hermes data trace tells which "
            "documents a step read"
        )
    try:
        stream = load_tokens(source.data, tokenizer, options)
    except BadRecordError as error:
        # The run read it, and nothing is left out now that was not left out then.
        raise DataError(f"{error.reason}: the data has changed since the run read it") from None
    if stream.fingerprint != source.fingerprint:
        stream.close()
        raise DataError(
            f"{', '.join(source.data)} has fingerprint {stream.fingerprint[:12]}, and the run read "
            f"{source.fingerprint[:12]}: the data has changed since"
        )
    return stream


def open_source_index(run: Path, record: DataRecord, source: SourceRecord) -> DocumentIndex:
    """Open the index of a source's documents. Raises DataError where it is gone or of other data.

    Raises StorageError.
    """
    if not source.index:
        files = [
            TokenFile(Path(path), dtype, tokens, offset)
            for path, dtype, tokens, offset in source.token_files
        ]
        blocks = [(str(one.path), iterate_blocks(one)) for one in files]
        return scan_documents(blocks, record.eos_id)
    if not source.sources:
        folder = Path(source.index)
        facts, _ = read_manifest(folder)
        if facts["fingerprint"] != source.fingerprint:
            raise DataError(
                f"{folder} holds other tokens than the run read, of fingerprint "
                f"{facts['fingerprint'][:12]}, and not {source.fingerprint[:12]}"
            )
        return open_index(folder)
    rows = open_index_rows(run / source.index, source.documents)
    sources = [IndexSource(name, _is_exact(name, record.options)) for name in source.sources]
    part = IndexPart(lambda: rows, source.documents, source.tokens)
    return DocumentIndex([part], sources)


def _is_exact(name: str, options: TextFormat) -> bool:
    return is_line_exact(choose_format(Path(name), options), options.documents)
