"""The training data of a run on text: one stream of tokens, or a mixture of several."""

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from hermes.data import TextDataset, TokenStream, count_run_samples
from hermes.data.dataset import Dataset, JoinedSource, TokenSource
from hermes.data.loading import load_tokens, open_token_folder
from hermes.data.mixture import MixtureDataset, parse_mixture
from hermes.distributed.agreement import all_or_none
from hermes.distributed.process_group import ProcessGroup
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.training.data_record import copy_indexes, make_data_record
from hermes.training.request import RunRequest
from hermes.training.schedule import count_planned_steps
from hermes.training.training_data import TrainingData, make_perplexity_evaluation

__all__ = ["make_text_data"]


def make_text_data(
    request: RunRequest, spec: ModelSpec, tokenizer: Tokenizer, recipe: Recipe
) -> TrainingData:
    """The request's text in windows of seq_len. Raises DataError, StorageError."""
    mixture = parse_mixture(request.data)
    with ExitStack() as stack:

        def load(names: tuple[str, ...]) -> TokenStream:
            stream = _tokenize_once_per_machine(
                request.process_group,
                lambda: load_tokens(names, tokenizer, request.data_options),
            )
            stack.callback(stream.close)
            return stream

        def make(stream: TokenStream, validation: TokenStream | None) -> TextDataset:
            return TextDataset(
                stream,
                seq_len=recipe.seq_len,
                vocab_size=spec.vocab_size,
                seed=recipe.seed,
                val_fraction=recipe.val_fraction,
                validation=validation,
                document_mask=recipe.document_mask,
                eos_id=tokenizer.eos_id,
            )

        groups: list[tuple[str, ...]] = [(source.name,) for source in mixture]
        streams = [load(names) for names in groups or [request.data]]
        validation = load(request.validation) if request.validation else None
        # Only the first of a mixture has the validation text, so that it counts once.
        datasets = [
            make(stream, None if number else validation) for number, stream in enumerate(streams)
        ]
        dataset: Dataset = datasets[0]
        tokens: TokenSource = streams[0]
        notes = [note for stream in streams for note in stream.notes]
        if mixture:
            shares = [source.share for source in mixture]
            dataset = mixed = MixtureDataset(datasets, shares)
            samples = _count_samples(recipe, len(mixed.train), request.world_size)
            notes += mixed.describe_epochs([source.name for source in mixture], samples)
        if mixture or validation is not None:
            how = "".join(f"/{source.share!r}" for source in mixture)
            held_out = () if validation is None else (validation,)
            tokens = JoinedSource(tuple(streams), held_out, how)
        record = make_data_record(request, tokenizer, recipe, tokens.fingerprint, datasets)
        stack.pop_all()
    evaluate = make_perplexity_evaluation(
        dataset, tokenizer, recipe.batch_size, request.process_group
    )
    files = sum(stream.sources for stream in streams)
    return TrainingData(
        tokens,
        dataset,
        evaluate,
        notes=tuple(notes),
        write_files=lambda output: copy_indexes(output, datasets),
        files=files,
        record=record,
    )


def _count_samples(recipe: Recipe, size: int, world_size: int) -> int:
    """The samples of the whole run, in epochs of `size`."""
    per_update = recipe.batch_size * recipe.grad_accum * world_size
    return count_run_samples(
        size,
        epochs=recipe.epochs,
        max_steps=count_planned_steps(recipe, world_size),
        per_update=per_update,
    )


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
