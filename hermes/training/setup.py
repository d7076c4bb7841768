"""Prepares a new run from its request, and what new and resumed runs prepare alike.

Everything that can be refused is looked at here; nothing is written.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hermes.errors import HermesError
from hermes.numerics.lora import list_trainable
from hermes.numerics.params import list_parameters
from hermes.recipe import Recipe, replace_fields
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.training.batch_split import split_batch
from hermes.training.evaluation_checks import (
    HeldOut,
    check_best_metric,
    check_patience,
    warn_no_evaluation,
)
from hermes.training.events import Position
from hermes.training.preflight import check_memory, fit_batch
from hermes.training.request import RunComponents, RunRequest
from hermes.training.schedule import count_steps, warn_long_warmup, warn_repeated_samples
from hermes.training.text_boundaries import describe_tokenizer
from hermes.training.text_data import make_text_data
from hermes.training.training_data import TrainingData

__all__ = [
    "check_seq_len",
    "choose_seq_len",
    "fit_vocabulary",
    "make_training_data",
    "prepare_new",
    "refuse_without_tokenizer",
    "require_tokenizer",
]

LONGEST_DEFAULT = 256
EMBEDDINGS = "model.embed_tokens.weight"


def choose_seq_len(spec: ModelSpec) -> int:
    """The tokens of a sequence where nobody says how many."""
    return min(LONGEST_DEFAULT, spec.max_seq_len)


def prepare_new(request: RunRequest) -> RunComponents:
    """The components of a new run. Raises HermesError where they do not fit together."""
    tokenizer = require_tokenizer(request)
    spec, notes = _choose_spec(request, tokenizer)
    default = Recipe(seq_len=choose_seq_len(spec))
    recipe, split_notes = split_batch(
        replace_fields(default, request.given), request.split_among, request.world_size
    )
    check_seq_len(recipe, spec)
    recipe, fit_notes = fit_batch(request, spec, recipe)
    split_notes += fit_notes
    notes += describe_tokenizer(tokenizer, is_text=request.make_data is None)
    notes += [*split_notes, *_describe_frozen(spec, recipe), *check_memory(request, spec, recipe)]
    request.on_model(request, spec, recipe)
    with make_training_data(request, spec, tokenizer, recipe) as data:
        held_out = HeldOut.describe(data)
        check_patience(request.patience, held_out, recipe)
        notes += [*data.notes, *check_best_metric(request.keep.best, held_out, recipe)]
        notes += warn_no_evaluation(held_out, recipe)
        position, size = Position(), len(data.dataset.train)
        total = count_steps(recipe, position, size, request.world_size)
        notes += warn_long_warmup(recipe, total)
        notes += warn_repeated_samples(recipe, position.cursor, size, data.unit, request.world_size)
    return RunComponents(spec, tokenizer, recipe, data, position, total, tuple(notes))


def require_tokenizer(request: RunRequest) -> Tokenizer:
    """The tokenizer of the request. Raises HermesError where there is none."""
    if request.tokenizer is None:
        refuse_without_tokenizer()
    return request.tokenizer


def refuse_without_tokenizer() -> NoReturn:
    """Raise the HermesError about a new run that has no tokenizer."""
    raise HermesError(
        "no tokenizer: give --tokenizer FILE, or --train-tokenizer to train one on the data"
    )


def _choose_spec(request: RunRequest, tokenizer: Tokenizer) -> tuple[ModelSpec, list[str]]:
    if request.initial_model is not None:
        return request.initial_model.spec, list(request.initial_model.notes)
    if request.spec is None:
        raise HermesError("a new run needs a model; give --model a name or a file")
    spec, notes = fit_vocabulary(request.spec, tokenizer), []
    if spec != request.spec:
        notes.append(
            f"vocab_size is {tokenizer.vocab_size}, the tokenizer's; {spec.name} has "
            f"{request.spec.vocab_size}"
        )
    return spec, notes


def fit_vocabulary(spec: ModelSpec, tokenizer: Tokenizer) -> ModelSpec:
    """The model with as many rows as the tokenizer has tokens."""
    if spec.vocab_size == tokenizer.vocab_size:
        return spec
    return dataclasses.replace(spec, vocab_size=tokenizer.vocab_size)


def check_seq_len(recipe: Recipe, spec: ModelSpec) -> None:
    """Refuse sequences longer than the model's. Raises HermesError."""
    if recipe.seq_len > spec.max_seq_len:
        raise HermesError(
            f"seq_len is {recipe.seq_len}, more than the model's max_seq_len {spec.max_seq_len}; "
            "choose a shorter --seq-len or a longer model"
        )


def _describe_frozen(spec: ModelSpec, recipe: Recipe) -> list[str]:
    """What to tell the user about frozen tensors. Raises SpecError."""
    trained = list_trainable(spec, recipe)
    notes = []
    if recipe.freeze_layers or recipe.freeze:
        total = len(list_parameters(spec))
        notes.append(f"{total - len(trained)} of {total} tensors are frozen")
        if spec.embeddings.tie_weights and EMBEDDINGS not in trained:
            notes.append("the head is tied to the embeddings and frozen with them")
    return notes


@contextmanager
def make_training_data(
    request: RunRequest, spec: ModelSpec, tokenizer: Tokenizer, recipe: Recipe, begun_on: str = ""
) -> Iterator[TrainingData]:
    """The request's training data, closed again where the block fails. Raises DataError.

    begun_on: the fingerprint of a resumed run's data.
    """
    make = request.make_data
    if make is None:
        data = make_text_data(request, spec, tokenizer, recipe, begun_on)
    else:
        data = make(spec, tokenizer, recipe, request.process_group)
    try:
        yield data
    except BaseException:
        data.tokens.close()
        raise
