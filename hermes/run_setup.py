"""What a run is asked to be, and what it is made of: all of it looked at, nothing of it written."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hermes.adapters import trained_by
from hermes.checkpoint import Checkpoint, Keep, Progress, require_model
from hermes.data import Cursor, TextData, documents, tokenize
from hermes.errors import HermesError, nearest
from hermes.loop import Position
from hermes.material import Material
from hermes.params import parameters
from hermes.processes import ALONE, Processes
from hermes.recipe import Recipe
from hermes.same_run import among, batch_change, changed, repeated, require_same, total_steps
from hermes.seam import Backend, Options, Tensors
from hermes.spec import ModelSpec
from hermes.together import shared_stream
from hermes.tokenizer import Tokenizer

__all__ = ["Parts", "Request", "Start", "device", "prepare"]

LONGEST_DEFAULT = 256
EMBEDDINGS = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Start:
    """A model to begin from instead of fresh weights. notes: what its user should hear."""

    spec: ModelSpec
    params: Tensors
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a run is asked to be.

    spec, tokenizer: None for the run's own, where it goes on. given: fields of the recipe by name
    ("lr", "optimizer.beta2"); the others are the checkpoint's, or the defaults. log_every None: as
    `default_log_every` says. settings and sources: what run.yaml says beside the recipe, and what
    set each value. start: what a new run begins from, its spec in place of `spec`. material: makes
    what is learnt from, where that is not the text of `data`. tokenizer_settings: what other tools
    read as tokenizer_config.json, where it is not the usual. allow_batch_change: an update may take
    other samples than before. processes: all that make this run. split_among: how many processes
    the batch_size and grad_accum given are of; None for these.
    """

    output: Path
    data: tuple[str, ...]
    backend: Backend
    spec: ModelSpec | None = None
    tokenizer: Tokenizer | None = None
    options: Options = field(default_factory=Options)
    given: Mapping[str, object] = field(default_factory=dict)
    resume: bool = False
    allow_batch_change: bool = False
    log_every: int | None = None
    keep: Keep = field(default_factory=Keep)
    text_field: str = "text"
    file_format: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    start: Start | None = None
    material: Callable[[ModelSpec, Tokenizer, Recipe], Material] | None = None
    tokenizer_settings: Mapping[str, Any] | None = None
    processes: Processes = ALONE
    split_among: int | None = None


def device(request: Request) -> str:
    """The device that the run trains on."""
    return request.options.device or request.backend.devices()[0]


@dataclass(frozen=True)
class Parts:
    """What a run is made of. notes: sentences that its user should hear."""

    spec: ModelSpec
    tokenizer: Tokenizer
    recipe: Recipe
    material: Material
    position: Position
    total_steps: int
    notes: tuple[str, ...]


def prepare(request: Request, checkpoint: Checkpoint | None) -> Parts:
    """The parts of a new run, or of one that goes on from `checkpoint`.

    Raises HermesError where they do not fit, or where the run would become another one.
    """
    tokenizer = _tokenizer(request.tokenizer, checkpoint)
    spec, notes = _spec(request, tokenizer, checkpoint)
    progress = checkpoint.progress if checkpoint else None
    default = Recipe(seq_len=min(LONGEST_DEFAULT, spec.max_seq_len))
    recipe, said = _split(
        request, progress, changed(progress.recipe if progress else default, request.given)
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
    return Parts(
        spec, tokenizer, recipe, material, position, total, (*notes, *material.notes, *said)
    )


def _split(request: Request, progress: Progress | None, recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe whose updates take as many samples among these processes as it does among others.

    With it, what to say of that. Raises HermesError where they cannot.
    """
    before, now = request.split_among, request.processes.place.size
    kept = request.given.keys().isdisjoint(("batch_size", "grad_accum"))
    if before is None and progress and kept and not request.allow_batch_change:
        before = progress.world_size
    if before is None or before == now:
        return recipe, []
    here = among(recipe, before, now)
    return here, [
        f"grad_accum is {here.grad_accum} on {now} {_processes(now)}, where it was "
        f"{recipe.grad_accum} on {before}: an update takes "
        f"{here.batch_size * here.grad_accum * now} samples as before"
    ]


def _processes(number: int) -> str:
    return "process" if number == 1 else "processes"


def _placed(
    request: Request, checkpoint: Checkpoint | None, recipe: Recipe, material: Material
) -> tuple[Position, int, list[str]]:
    """Where the run is, where it ends, and what to say of either. Raises HermesError."""
    notes = _best_notes(request.keep.best, material, recipe)
    progress = checkpoint.progress if checkpoint else None
    position = Position()
    if progress:
        cursor = Cursor(progress.epoch, progress.sample)
        position = Position(progress.step, progress.tokens, cursor)
    size, samples = request.processes.place.size, len(material.samples.train)
    total = total_steps(recipe, position, samples, size)
    if position.step < total:
        said = repeated(recipe, position.cursor, samples, material.unit, size)
        notes += [said] if said else []
    if checkpoint:
        require_same(checkpoint.path, checkpoint.progress, recipe, material.stream)
        notes += _changes(request, checkpoint, recipe, material.unit, total)
    return position, total, notes


def _text(request: Request, spec: ModelSpec, tokenizer: Tokenizer, recipe: Recipe) -> Material:
    """The request's data as windows of text."""
    texts = documents(request.data, text_field=request.text_field, file_format=request.file_format)
    stream = shared_stream(request.processes, lambda: tokenize(texts, tokenizer))
    try:
        samples = TextData(
            stream,
            seq_len=recipe.seq_len,
            vocab_size=spec.vocab_size,
            seed=recipe.seed,
            val_fraction=recipe.val_fraction,
        )
    except BaseException:
        stream.close()
        raise
    return Material(stream, samples)


def _spec(
    request: Request, tokenizer: Tokenizer, checkpoint: Checkpoint | None
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
    trained = trained_by(spec, recipe)
    notes = []
    if recipe.freeze_layers or recipe.freeze:
        held = len(parameters(spec)) - len(trained)
        notes.append(f"{held} of {len(parameters(spec))} tensors are frozen")
        if spec.embeddings.tie_weights and EMBEDDINGS not in trained:
            notes.append("the head is tied to the embeddings and frozen with them")
    return notes


def _best_notes(metric: str | None, material: Material, recipe: Recipe) -> list[str]:
    """What to say of the metric by which a checkpoint is kept. Raises HermesError for no metric."""
    if metric is None:
        return []
    of_updates = ("loss", "grad_norm", *material.measures)
    held_out = ("val_loss", "val_bits_per_byte", *(f"val_{name}" for name in material.measures))
    if metric in of_updates:
        return []
    if metric not in held_out:
        known = (*of_updates, *held_out)
        raise HermesError(f"--keep-best: there is no metric {metric!r}{nearest(metric, known)}")
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


def _changes(
    request: Request, checkpoint: Checkpoint, recipe: Recipe, unit: str, total: int
) -> list[str]:
    """What is another from here on, of what may be. Raises HermesError where it must be allowed."""
    progress, world = checkpoint.progress, request.processes.place.size
    changes = []
    batch = batch_change(checkpoint.path, progress, recipe, unit, world)
    if batch:
        changes.append(batch.meaning)
    if total != progress.total_steps and progress.step < total:
        changes.append(_length_note(recipe, progress.total_steps, total))
    if batch and not request.allow_batch_change:
        raise HermesError(
            f"{batch.found}; keep the product, or pass --allow-batch-change: {'; '.join(changes)}"
        )
    return changes


def _length_note(recipe: Recipe, before: int, now: int) -> str:
    words = f"the run ends at step {now:,}, where it would have ended at {before:,}"
    if recipe.schedule != "constant":
        words += f"; the rest of its {recipe.schedule} schedule changes with that"
    return words
