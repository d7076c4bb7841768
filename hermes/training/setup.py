"""What a run is asked to be, and what it is made of: all of it looked at, nothing of it written."""

import dataclasses
import json
import socket
from collections.abc import Callable
from functools import partial

from hermes.checkpoint import Checkpoint, require_model
from hermes.data import Cursor, TextDataset, TokenStream, read_documents, tokenize
from hermes.distributed.agreement import all_or_none
from hermes.distributed.process_group import ProcessGroup
from hermes.errors import HermesError, suggest_nearest
from hermes.numerics.lora import list_trainable
from hermes.numerics.params import list_parameters
from hermes.recipe import Recipe, replace_fields
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.training.events import Position
from hermes.training.request import RunComponents, RunRequest
from hermes.training.resume import _changes, _split, require_same_run
from hermes.training.schedule import count_steps, warn_repeated_samples
from hermes.training.training_data import TrainingData

__all__ = ["prepare"]

LONGEST_DEFAULT = 256
EMBEDDINGS = "model.embed_tokens.weight"


def prepare(request: RunRequest, checkpoint: Checkpoint | None) -> RunComponents:
    """The parts of a new run, or of one that goes on from `checkpoint`.

    Raises HermesError where they do not fit, or where the run would become another one.
    """
    tokenizer = _tokenizer(request.tokenizer, checkpoint)
    spec, notes = _spec(request, tokenizer, checkpoint)
    progress = checkpoint.progress if checkpoint else None
    default = Recipe(seq_len=min(LONGEST_DEFAULT, spec.max_seq_len))
    recipe, said = _split(
        request, progress, replace_fields(progress.recipe if progress else default, request.given)
    )
    notes += said
    if recipe.seq_len > spec.max_seq_len:
        raise HermesError(
            f"seq_len is {recipe.seq_len}, more than the model's max_seq_len {spec.max_seq_len}; "
            "choose a shorter --seq-len or a longer model"
        )
    if not progress:
        notes += _frozen_notes(spec, recipe)
    material = (request.material or partial(_text, request))(spec, tokenizer, recipe)
    try:
        position, total, said = _placed(request, checkpoint, recipe, material)
    except BaseException:
        material.stream.close()
        raise
    return RunComponents(
        spec, tokenizer, recipe, material, position, total, (*notes, *material.notes, *said)
    )


def _placed(
    request: RunRequest, checkpoint: Checkpoint | None, recipe: Recipe, material: TrainingData
) -> tuple[Position, int, list[str]]:
    """Where the run is, where it ends, and what to say of either. Raises HermesError."""
    notes = _best_notes(request.keep.best, material, recipe)
    progress = checkpoint.progress if checkpoint else None
    position = Position()
    if progress:
        cursor = Cursor(progress.epoch, progress.sample)
        position = Position(progress.step, progress.tokens, cursor)
    size, samples = request.process_group.rank_info.world_size, len(material.samples.train)
    total = count_steps(recipe, position, samples, size)
    if position.step < total:
        said = warn_repeated_samples(recipe, position.cursor, samples, material.unit, size)
        notes += [said] if said else []
    if checkpoint:
        require_same_run(checkpoint.path, checkpoint.progress, recipe, material.stream)
        notes += _changes(request, checkpoint, recipe, material.unit, total)
    return position, total, notes


def _text(
    request: RunRequest, spec: ModelSpec, tokenizer: Tokenizer, recipe: Recipe
) -> TrainingData:
    """The request's data as windows of text."""
    texts = read_documents(
        request.data, text_field=request.text_field, file_format=request.file_format
    )
    stream = shared_stream(request.process_group, lambda: tokenize(texts, tokenizer))
    try:
        samples = TextDataset(
            stream,
            seq_len=recipe.seq_len,
            vocab_size=spec.vocab_size,
            seed=recipe.seed,
            val_fraction=recipe.val_fraction,
        )
    except BaseException:
        stream.close()
        raise
    return TrainingData(stream, samples)


def _spec(
    request: RunRequest, tokenizer: Tokenizer, checkpoint: Checkpoint | None
) -> tuple[ModelSpec, list[str]]:
    """The run's model; a given one takes the size of the tokenizer, said aloud for a new run."""
    if request.start is not None:
        if checkpoint is not None:
            begun = "give the model that the run began with, or another --output"
            require_model(checkpoint.path, checkpoint.spec, request.start.spec, begun)
        return request.start.spec, list(request.start.notes if checkpoint is None else ())
    given, notes = request.spec, []
    if given is not None and given.vocab_size != tokenizer.vocab_size:
        notes.append(
            f"vocab_size is {tokenizer.vocab_size}, the tokenizer's; {given.name} has "
            f"{given.vocab_size}"
        )
        given = dataclasses.replace(given, vocab_size=tokenizer.vocab_size)
    if checkpoint is not None:
        if given is not None:
            advice = "leave --model out to go on with it, or give another --output"
            require_model(checkpoint.path, checkpoint.spec, given, advice)
        return checkpoint.spec, []
    if given is None:
        raise HermesError("a new run needs a model; give --model a name or a file")
    return given, notes


def _tokenizer(given: Tokenizer | None, checkpoint: Checkpoint | None) -> Tokenizer:
    if checkpoint is None or checkpoint.tokenizer_json is None:
        if given is None:
            raise HermesError(
                "no tokenizer: give --tokenizer FILE, or --train-tokenizer to train one on the data"
            )
        return given
    own = Tokenizer.from_json(checkpoint.tokenizer_json)
    if given is not None and given.fingerprint != own.fingerprint:
        raise HermesError(
            f"the run's tokenizer has {own.vocab_size} tokens and fingerprint "
            f"{own.fingerprint[:12]}, the one given {given.vocab_size} and "
            f"{given.fingerprint[:12]}; leave --tokenizer out to go on with the run's"
        )
    return own


def _frozen_notes(spec: ModelSpec, recipe: Recipe) -> list[str]:
    """What a new run should say of tensors that it leaves as they are. Raises SpecError."""
    trained = list_trainable(spec, recipe)
    notes = []
    if recipe.freeze_layers or recipe.freeze:
        held = len(list_parameters(spec)) - len(trained)
        notes.append(f"{held} of {len(list_parameters(spec))} tensors are frozen")
        if spec.embeddings.tie_weights and EMBEDDINGS not in trained:
            notes.append("the head is tied to the embeddings and frozen with them")
    return notes


def _best_notes(metric: str | None, material: TrainingData, recipe: Recipe) -> list[str]:
    """What to say of the metric by which a checkpoint is kept. Raises HermesError for no metric."""
    if metric is None:
        return []
    of_updates = ("loss", "grad_norm", *material.measures)
    held_out = ("val_loss", "val_bits_per_byte", *(f"val_{name}" for name in material.measures))
    if metric in of_updates:
        return []
    if metric not in held_out:
        known = (*of_updates, *held_out)
        raise HermesError(
            f"--keep-best: there is no metric {metric!r}{suggest_nearest(metric, known)}"
        )
    if not material.samples.held_out:
        raise HermesError(f"--keep-best {metric} needs {material.unit} held out: --val-fraction")
    every = recipe.eval_every
    if not every:
        raise HermesError(f"--keep-best {metric} needs evaluations on the way: --eval-every")
    if recipe.save_every % every == 0:
        return []
    return [
        f"only checkpoints of steps with an evaluation have a {metric}, others are not compared"
    ]


def shared_stream(process_group: ProcessGroup, make: Callable[[], TokenStream]) -> TokenStream:
    """A corpus that one process of each machine tokenizes and the others there open."""
    rank_info = process_group.rank_info
    if rank_info.world_size == 1:
        return make()
    host = socket.gethostname()
    made = all_or_none(process_group, lambda: make() if rank_info.local_rank == 0 else None)
    folder = "" if made is None else str(made.folder)
    told = [json.loads(text) for text in process_group.all_gather_text(json.dumps([host, folder]))]
    if made is not None:
        return made
    return TokenStream.open(next(path for where, path in told if where == host and path))
