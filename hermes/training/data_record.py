"""Writes data.json of a run, with which its samples are traced, and its copies of indexes."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from hermes.data import count_run_samples
from hermes.data.document_dataset import DocumentDataset
from hermes.data.files import STANDARD_INPUT, name_source
from hermes.data.mixture import parse_mixture
from hermes.data.mixture_blocks import AS_SHUFFLED
from hermes.data.mixture_sources import list_changes
from hermes.data.prepared import is_prepared
from hermes.data.remote import locate_source
from hermes.data.run_data import NAME, DataRecord, RunData, SessionRecord, SourceRecord
from hermes.data.text_dataset import TextDataset
from hermes.data.token_shards import TokenShards
from hermes.data.token_stream import DOCUMENTS, TokenStream, read_stream_sources
from hermes.errors import DataError, StorageError
from hermes.recipe import Recipe
from hermes.storage.durable import Disk, link_or_copy
from hermes.tokenizer import Tokenizer
from hermes.training.request import RunComponents, RunRequest
from hermes.training.schedule import count_samples_before

__all__ = ["copy_indexes", "describe_data_change", "make_data_record", "write_data_record"]


def make_data_record(
    request: RunRequest,
    tokenizer: Tokenizer,
    recipe: Recipe,
    fingerprint: str,
    streams: Sequence[TokenStream],
    datasets: Sequence[TextDataset | DocumentDataset],
    numbering: int = AS_SHUFFLED,
) -> DataRecord:
    """Describe the data of a run on text: its streams, and the dataset of each.

    numbering: of a mixture's samples.
    """
    mixture = parse_mixture(request.data)
    names: list[tuple[str, ...]] = [source.data for source in mixture] or [request.data]
    changes = list_changes(mixture) if mixture else []
    shares: Sequence[float | None] = changes[0][1] if changes else (None,)
    trained, own = [], None
    for data, share, stream, dataset in zip(names, shares, streams, datasets, strict=True):
        held_out, held_from = len(dataset.held_out), None
        if dataset.validation is not dataset.stream and request.validation:
            own = _describe(request.validation, dataset.validation, 0, held_out)
            held_out = 0
        elif dataset.validation is not dataset.stream:  # the stream's last documents
            held_from = len(dataset.stream)
        source = _describe(data, stream, len(dataset.train), held_out, share, held_from)
        trained.append(source)
    per_step = recipe.batch_size * recipe.grad_accum * request.world_size
    return DataRecord(
        fingerprint=fingerprint,
        seq_len=recipe.seq_len,
        seed=recipe.seed,
        trained=tuple(trained),
        validation=own,
        eos_id=tokenizer.eos_id,
        options=request.data_options.text_format,
        max_bad_records=request.data_options.max_bad_records,
        overlong="" if request.rows.pack else request.rows.overlong,
        later=tuple((step * per_step, shares) for step, shares in changes[1:]),
        numbering=numbering,
    )


def _describe(
    data: Sequence[str],
    stream: TokenStream,
    train: int,
    held_out: int,
    share: float | None = None,
    held_from: int | None = None,
) -> SourceRecord:
    index, sources, files = "", tuple[str, ...](), tuple[tuple[str, str, int, int], ...]()
    if stream.folder is not None and is_prepared(stream.folder):
        index = str(stream.folder.absolute())
    elif stream.folder is not None:
        index = _name_index(stream)
        sources = tuple(map(_locate_file, read_stream_sources(stream.folder)))
    elif isinstance(stream.tokens, TokenShards):
        files = tuple(
            (str(one.path.absolute()), one.dtype, one.tokens, one.offset)
            for one in stream.tokens.files
        )
    return SourceRecord(
        data=tuple(map(locate_source, data)),
        fingerprint=stream.fingerprint,
        tokens=len(stream),
        documents=stream.documents,
        train=train,
        held_out=held_out,
        share=share,
        index=index,
        sources=sources,
        token_files=files,
        held_from=held_from,
    )


def _locate_file(name: str) -> str:
    return name if name == name_source(STANDARD_INPUT) else locate_source(name)


def _name_index(stream: TokenStream) -> str:
    return f"documents-{stream.fingerprint[:12]}.idx"


def copy_indexes(output: Path, datasets: Sequence[TextDataset | DocumentDataset]) -> None:
    """Copy the indexes of streams that last no longer than the run. Raises StorageError."""
    for stream in [one for dataset in datasets for one in (dataset.stream, dataset.validation)]:
        if stream.folder is None or is_prepared(stream.folder):
            continue
        target = output / _name_index(stream)  # named for its content
        if not target.exists():
            link_or_copy(stream.folder / DOCUMENTS, target, Disk())


def write_data_record(request: RunRequest, parts: RunComponents) -> None:
    """Add the run's session to its data.json, where its data is text. Raises StorageError."""
    record, recipe, position = parts.training_data.record, parts.recipe, parts.position
    known = RunData()
    if (request.output / NAME).exists():
        try:
            known = RunData.read(request.output)
        except DataError as error:
            warnings.warn(f"{error}; a new one begins, without the steps so far", stacklevel=2)
    if record is None:
        if known.sessions:
            known.end_at(position.step).write(request.output)
        return
    world_size, first = request.world_size, position.cursor.count_samples(record.size)
    last = count_run_samples(record.size, epochs=recipe.epochs, max_steps=0, per_update=1)
    before = count_samples_before(recipe, position.step, world_size)
    # One for each size of batches that the run will have.
    changes = [step for step, _ in recipe.list_batch_sizes()]
    later = [step for step in changes if position.step < step < parts.total_steps]
    for step in (position.step, *later):
        session = SessionRecord(
            step=step,
            sample=first + count_samples_before(recipe, step, world_size) - before,
            batch_size=recipe.find_batch_size(step),
            grad_accum=recipe.grad_accum,
            world_size=world_size,
            total_steps=parts.total_steps,
            last=None if recipe.max_steps else last,
        )
        known = known.add(record, session)
    known.write(request.output)


def describe_data_change(run: Path, before: str, record: DataRecord | None) -> str:
    """Describe how a run's data differs from that with fingerprint `before`; '' if unknown."""
    try:
        known = next((one for one in RunData.read(run).records if one.fingerprint == before), None)
    except (DataError, StorageError):
        return ""
    if known is None or record is None:
        return ""
    there, here = _list_facts(known), _list_facts(record)
    changes = [f"{name} was {there.get(name, 'none')} and is {here.get(name, 'none')}"
               for name in there | here if there.get(name) != here.get(name)]  # fmt: skip
    return ", ".join(changes)


def _list_facts(record: DataRecord) -> dict[str, str]:
    """What is told of data where it changes, by name."""
    facts = {"the way of reading": _describe_reading(record)}
    tokens = sum(one.tokens for one in record.trained)
    names = ", ".join(
        name if one.share is None else f"{name} ({one.share:.1%})"
        for one in record.trained
        for name in one.data
    )
    facts["the text"] = f"{tokens:,} tokens of {names}"
    if record.validation is not None:
        own = record.validation
        facts["the validation text"] = f"{own.tokens:,} tokens of {', '.join(own.data)}"
    return facts


def _describe_reading(record: DataRecord) -> str:
    given = {k: v for k, v in vars(record.options).items() if v not in (None, False)}
    return ", ".join(f"{name} {value!r}" for name, value in given.items())
