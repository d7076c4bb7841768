"""The training data of a run on text: one stream of tokens, or a mixture of several."""

import json
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream, count_run_samples
from hermes.data.continued_order import shift_phases
from hermes.data.dataset import Dataset, JoinedSource, TokenSource
from hermes.data.document_dataset import DocumentDataset
from hermes.data.file_names import read_names
from hermes.data.holding_out import split_at_document
from hermes.data.loading import load_tokens, open_token_folder
from hermes.data.mixture import MixtureDataset, Phase, WeightedSource, parse_mixture
from hermes.data.mixture_blocks import AS_DRAWN, AS_SHUFFLED
from hermes.data.mixture_sources import list_changes
from hermes.distributed.agreement import all_or_none
from hermes.distributed.process_group import ProcessGroup
from hermes.errors import DataError
from hermes.interface import IGNORE, Batch, StepReport
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.training.data_record import copy_indexes, make_data_record
from hermes.training.request import RunRequest
from hermes.training.schedule import count_planned_steps, count_samples_before
from hermes.training.training_data import Mean, TrainingData, make_perplexity_evaluation

__all__ = ["make_text_data", "shorten_names"]


# What says in the fingerprint how the samples of a mixture are numbered.
NUMBERINGS = {AS_SHUFFLED: "", AS_DRAWN: "/as drawn"}


def make_text_data(
    request: RunRequest, spec: ModelSpec, tokenizer: Tokenizer, recipe: Recipe, begun_on: str = ""
) -> TrainingData:
    """The request's text in windows of seq_len. Raises DataError, StorageError.

    begun_on: the fingerprint of a resumed run's data; a mixture goes on as it was begun.
    """
    mixture = parse_mixture(request.data)
    with ExitStack() as stack:

        def load(names: tuple[str, ...]) -> TokenStream:
            stream = _tokenize_once_per_machine(
                request.process_group,
                lambda: load_tokens(names, tokenizer, request.data_options),
            )
            stack.callback(stream.close)
            return stream

        def make(number: int) -> TextDataset:
            # Only the first of a mixture has the validation text, so that it counts once.
            stream, held_out = streams[number], None if number else validation
            name = f"the text of {mixture[number].name}" if len(mixture) > 1 else "the text"
            fraction = recipe.val_fraction
            if fraction and held_out is None and request.rows.hold_out == "documents":
                stream, held_out = split_at_document(stream, fraction, tokenizer.eos_id, name)
                fraction = 0.0
            return TextDataset(
                stream,
                seq_len=recipe.seq_len,
                vocab_size=spec.vocab_size,
                seed=recipe.seed,
                val_fraction=fraction,
                validation=held_out,
                document_mask=recipe.document_mask,
                eos_id=tokenizer.eos_id,
                name=name,
            )

        if request.rows.hold_out == "documents" and not recipe.val_fraction:
            raise DataError(
                "--hold-out documents says what --val-fraction holds out; give it a fraction"
            )
        if mixture and not request.rows.pack:
            raise DataError(
                "--no-pack takes one source, and weights are given: leave one of them out; "
                "--document-mask keeps the documents of a mixture apart"
            )
        groups = [source.data for source in mixture] or [request.data]
        read_names([*chain(*groups), *request.validation])  # one of them all is standard input
        streams = [load(names) for names in groups]
        validation = load(request.validation) if request.validation else None
        if not request.rows.pack:
            if recipe.seq_len_schedule:
                raise DataError(
                    "--no-pack gives each document a sequence of its own, which "
                    "--seq-len-schedule would split: leave one of them out"
                )
            data = _make_document_data(request, spec, tokenizer, recipe, streams[0], validation)
            stack.pop_all()
            return data
        datasets = [make(number) for number in range(len(streams))]
        dataset: Dataset = datasets[0]
        tokens: TokenSource = streams[0]
        notes = [note for stream in streams for note in stream.notes]
        names: list[str] = []
        held_out = () if validation is None else (validation,)
        how = request.rows.describe()
        numbering = AS_SHUFFLED  # of what is no mixture, and says nothing of it
        if mixture:
            per_step = recipe.batch_size * recipe.grad_accum * request.world_size
            changes = list_changes(mixture)
            if changes[1:] and recipe.batch_size_schedule:
                raise DataError(
                    "the weights of the data change at steps of one batch size, and "
                    "--batch-size-schedule changes it: leave one of them out"
                )
            later = [Phase(step * per_step, shares) for step, shares in changes[1:]]
            how = _describe_weights(mixture) + how
            shuffled = JoinedSource(tuple(streams), held_out, how + NUMBERINGS[AS_SHUFFLED])
            numbering = AS_SHUFFLED if shuffled.fingerprint == begun_on else AS_DRAWN
            how += NUMBERINGS[numbering]
            dataset = mixed = MixtureDataset(datasets, changes[0][1], later, numbering)
            planned = count_planned_steps(recipe, request.world_size)
            samples = count_samples_before(recipe, planned, request.world_size)
            if not planned:
                samples = count_run_samples(
                    len(mixed.train), epochs=recipe.epochs, max_steps=0, per_update=1
                )
            notes += mixed.describe_epochs([one.name for one in mixture], samples, per_step)
            names = shorten_names(mixture) if len(mixture) > 1 else []
        if held_out or how:
            tokens = JoinedSource(tuple(streams), held_out, how)
        record = make_data_record(
            request, tokenizer, recipe, tokens.fingerprint, streams, datasets, numbering
        )
        stack.pop_all()
    evaluate = make_perplexity_evaluation(
        datasets,
        tokenizer,
        recipe.batch_size,
        request.process_group,
        names if validation is None else (),
    )
    return TrainingData(
        tokens,
        dataset,
        evaluate,
        notes=tuple(notes),
        measures=tuple(f"loss/{name}" for name in names),
        measure=lambda batch, report: _measure_sources(names, batch, report),
        write_files=lambda output: copy_indexes(output, datasets),
        record=record,
        files=sum(stream.sources for stream in streams),
        counts_steps=any(source.later for source in mixture),
        continue_data=_make_continuation(mixture, recipe, request.world_size),
    )


def _make_continuation(
    mixture: Sequence[WeightedSource], recipe: Recipe, world_size: int
) -> Callable[[TrainingData, int, Cursor], TrainingData] | None:
    """What makes the data of a run that went back; None where its order stays as it is."""
    if not any(source.later for source in mixture):
        return None
    changes = list_changes(mixture)
    per_step = recipe.batch_size * recipe.grad_accum * world_size

    def continue_data(data: TrainingData, step: int, cursor: Cursor) -> TrainingData:
        mixed = data.dataset
        assert isinstance(mixed, MixtureDataset), "the data is a mixture"
        sample = cursor.count_samples(len(mixed.train))
        phases = shift_phases(changes, step, sample, per_step)
        record = None if data.record is None else data.record.continue_with(phases)
        return replace(data, dataset=mixed.continue_with(phases), record=record)

    return continue_data


def _make_document_data(
    request: RunRequest,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    recipe: Recipe,
    stream: TokenStream,
    validation: TokenStream | None,
) -> TrainingData:
    """The stream's documents in rows of their own."""
    dataset = DocumentDataset(
        stream,
        seq_len=recipe.seq_len,
        vocab_size=spec.vocab_size,
        eos_id=tokenizer.eos_id,
        seed=recipe.seed,
        val_fraction=recipe.val_fraction,
        validation=validation,
        overlong=request.rows.overlong,
    )
    held_out = () if validation is None else (validation,)
    tokens = JoinedSource((stream,), held_out, request.rows.describe())
    evaluate = make_perplexity_evaluation(
        [dataset], tokenizer, recipe.batch_size, request.process_group
    )
    return TrainingData(
        tokens,
        dataset,
        evaluate,
        "documents",
        notes=(*stream.notes, *dataset.describe()),
        write_files=lambda output: copy_indexes(output, [dataset]),
        record=make_data_record(
            request, tokenizer, recipe, tokens.fingerprint, [stream], [dataset]
        ),
        files=stream.sources,
    )


def _describe_weights(mixture: Sequence[WeightedSource]) -> str:
    """The shares of sources, and when they change, for the fingerprint."""
    said = "".join(f"/{source.share!r}" for source in mixture)
    return said + "".join(f"@{step}/{shares!r}" for step, shares in list_changes(mixture)[1:])


def shorten_names(mixture: Sequence[WeightedSource]) -> list[str]:
    """The names of sources in metrics: as given, or of a path its last part without endings.

    Where two are the same, all are as they are given; where those are, too, they are numbered.
    """
    short = [source.name if source.files else _shorten(source.name) for source in mixture]
    if len(set(short)) < len(short):
        short = [source.name for source in mixture]
    if len(set(short)) < len(short):
        short = [f"{name}-{number}" for number, name in enumerate(short, 1)]
    return short


def _shorten(path: str) -> str:
    last = Path(path).name
    return last.partition(".")[0] or last or path


def _measure_sources(names: Sequence[str], batch: Batch, report: StepReport) -> dict[str, Mean]:
    """The loss of a step on each source that it has targets of, in nats per target."""
    if not names or batch.sources is None or report.row_logprobs is None:
        return {}
    nats = -np.asarray(report.row_logprobs, np.float64)  # (A, B)
    counts = (batch.targets != IGNORE).sum(axis=-1)
    found = {}
    for number, name in enumerate(names):
        own = batch.sources == number
        if weight := int(counts[own].sum()):
            found[f"loss/{name}"] = Mean(float(nats[own].sum()), weight)
    return found


def _tokenize_once_per_machine(
    process_group: ProcessGroup, make: Callable[[], TokenStream]
) -> TokenStream:
    """The tokens, made by one rank of each machine and opened from its files by the others there.

    Raises what `make` raises, in all ranks.
    """
    rank_info = process_group.rank_info
    if rank_info.world_size == 1:
        return make()
    host = socket.gethostname()
    made = all_or_none(process_group, lambda: make() if rank_info.local_rank == 0 else None)
    folder = "" if made is None or made.folder is None else str(made.folder)
    told = [json.loads(text) for text in process_group.all_gather_text(json.dumps([host, folder]))]
    if made is not None:
        return made
    folder = next((path for where, path in told if where == host and path), "")
    return open_token_folder(Path(folder)) if folder else make()  # token files are opened by all
