"""Prepares a resumed run: which settings may change, and which would make it another run.

A resumed run may move to another backend, device, precision or split of its batch, may end later or
sooner, and may log, save and evaluate as it likes. With `allow_batch_change` its steps may take
another number of samples, and with `allow_data_change` it may take other data. All else would
make it another run, and is refused.
"""

from pathlib import Path

from hermes.checkpoint import Checkpoint, Progress, require_model
from hermes.checkpoint.layout import CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG, TOKENIZER_MANIFEST
from hermes.data import Cursor
from hermes.data.dataset import TokenSource
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.recipe import Recipe, flatten_recipe, replace_fields
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.training.batch_split import find_batch_change, split_batch
from hermes.training.cooldown import COOLDOWN_FIELDS
from hermes.training.data_record import describe_data_change
from hermes.training.evaluation_checks import (
    HeldOut,
    check_best_metric,
    check_patience,
    warn_no_evaluation,
)
from hermes.training.events import Position
from hermes.training.preflight import check_memory, fit_batch
from hermes.training.request import RunComponents, RunRequest
from hermes.training.rollback import find_next_sample, restore_continuations
from hermes.training.schedule import count_steps, warn_long_warmup, warn_repeated_samples
from hermes.training.setup import (
    check_seq_len,
    fit_vocabulary,
    make_training_data,
    require_tokenizer,
)
from hermes.training.text_boundaries import restore_boundaries

__all__ = ["prepare_resumed", "require_same_run"]

# What a field is said to be in a recipe that lacks the part it belongs to.
ABSENT = {"lora.rank": 0}
FREE = (
    *("batch_size", "grad_accum", "epochs", "max_steps", "train_tokens", "save_every"),
    "eval_every",
)


def prepare_resumed(
    request: RunRequest, checkpoint: Checkpoint, *, is_cooldown: bool = False
) -> RunComponents:
    """The components of a run that resumes from `checkpoint`.

    is_cooldown: it is a new run, whose schedule may differ from the checkpoint's. Raises
    HermesError where they do not fit together, or where the run would become another one.
    """
    progress, world_size = checkpoint.progress, request.world_size
    tokenizer = _choose_tokenizer(request, checkpoint)
    spec = _choose_spec(request, checkpoint, tokenizer)
    recipe, notes = split_batch(
        replace_fields(progress.recipe, request.given),
        _find_split(request, progress),
        world_size,
    )
    check_seq_len(recipe, spec)
    recipe, fit_notes = fit_batch(request, spec, recipe)
    notes += [*fit_notes, *check_memory(request, spec, recipe)]
    if progress.step < progress.total_steps:
        request.on_model(request, spec, recipe)
    with make_training_data(request, spec, tokenizer, recipe, progress.data) as data:
        held_out = HeldOut.describe(data)
        check_patience(request.patience, held_out, recipe)
        notes += [*data.notes, *check_best_metric(request.keep.best, held_out, recipe)]
        notes += warn_no_evaluation(held_out, recipe)
        changed = require_same_run(
            checkpoint.path,
            progress,
            recipe,
            data.tokens,
            request.allow_data_change,
            describe_data_change(request.output, progress.data, data.record),
            free=_list_free(request, is_cooldown),
        )
        notes += changed
        # Other data is taken from its beginning; the samples before it mean nothing there.
        if not changed:
            run = checkpoint.path.parent if is_cooldown else request.output
            data = restore_continuations(data, run, progress.step)
        cursor = find_next_sample(request.output, progress.step)
        if changed or cursor is None:
            cursor = Cursor(progress.epoch, 0 if changed else progress.sample)
        position, size = Position(progress.step, progress.tokens, cursor), len(data.dataset.train)
        total = count_steps(recipe, position, size, world_size)
        if position.step < total:
            notes += warn_long_warmup(recipe, total)
            notes += warn_repeated_samples(recipe, cursor, size, data.unit, world_size)
        notes += _describe_changes(request, checkpoint, recipe, data.unit, total, data.counts_steps)
    return RunComponents(spec, tokenizer, recipe, data, position, total, tuple(notes))


def _list_free(request: RunRequest, is_cooldown: bool) -> tuple[str, ...]:
    """The fields of the recipe that may change."""
    cooldown = COOLDOWN_FIELDS if is_cooldown else ()
    batch = ("batch_size_schedule",) if request.allow_batch_change else ()
    return (*FREE, *cooldown, *batch)


def _choose_tokenizer(request: RunRequest, checkpoint: Checkpoint) -> Tokenizer:
    """The run's tokenizer. Raises HermesError where another one was given."""
    if checkpoint.tokenizer_json is None:
        return require_tokenizer(request)
    files = checkpoint.companions
    settings = {
        TOKENIZER_CONFIG: files.tokenizer_config or {},
        GENERATION_CONFIG: files.generation_config or {},
        CONFIG: files.config,
        TOKENIZER_MANIFEST: files.tokenizer_manifest or {},
    }
    own, given = Tokenizer.from_json(checkpoint.tokenizer_json, settings), request.tokenizer
    if given is not None and given.fingerprint != own.fingerprint:
        raise HermesError(
            f"the run's tokenizer has {own.vocab_size} tokens and fingerprint "
            f"{own.fingerprint[:12]}, the one given {given.vocab_size} and "
            f"{given.fingerprint[:12]}; leave --tokenizer out to resume with the run's"
        )
    return restore_boundaries(own, checkpoint.path.parent, request.settings)


def _choose_spec(request: RunRequest, checkpoint: Checkpoint, tokenizer: Tokenizer) -> ModelSpec:
    """The run's model. Raises CheckpointError where another one was given."""
    if request.initial_model is not None:
        begun = "give the model that the run began with, or another --output"
        require_model(checkpoint.path, checkpoint.spec, request.initial_model.spec, begun)
        return request.initial_model.spec
    if request.spec is not None:
        advice = "leave --model out to resume it, or give another --output"
        given = fit_vocabulary(request.spec, tokenizer)
        require_model(checkpoint.path, checkpoint.spec, given, advice)
    return checkpoint.spec


def _find_split(request: RunRequest, progress: Progress) -> int | None:
    """The number of ranks that the batch options are meant for, None for the current ranks.

    Without batch options the run's own are taken, and a step takes as many samples as before.
    """
    keeps_batch = request.given.keys().isdisjoint(("batch_size", "grad_accum"))
    if request.split_among is None and keeps_batch and not request.allow_batch_change:
        return progress.world_size
    return request.split_among


def require_same_run(
    checkpoint: Path,
    progress: Progress,
    recipe: Recipe,
    tokens: TokenSource,
    allow_data_change: bool = False,
    change: str = "",
    free: tuple[str, ...] = FREE,
) -> list[str]:
    """Refuse to resume with another recipe or other data, naming both values. Raises HermesError.

    Fields in `free` may change; the samples of a step are `find_batch_change`'s matter. change: how
    the data differs, where that is known. Returns what other data means, where it is allowed.
    """
    before, after = flatten_recipe(progress.recipe), flatten_recipe(recipe)
    for name in before | after:
        there, here = (fields.get(name, ABSENT.get(name)) for fields in (before, after))
        if name not in free and there != here:
            raise HermesError(
                f"{name} is {there!r} in {checkpoint} and {here!r} here; leave it out to resume "
                "the run, or choose another --output for a new one"
            )
    if not progress.data or progress.data == tokens.fingerprint:
        return []
    many, one = "samples of that epoch were", "sample of that epoch was"
    meaning = (
        f"from step {progress.step + 1:,} on the run takes this data from its beginning, as epoch "
        f"{progress.epoch + 1:,}; {format_count(progress.sample, many, one)} taken of the other"
        + (f"; {change}" if change else "")
    )
    if allow_data_change:
        return [f"the data is not the run's: {meaning}"]
    raise HermesError(
        f"the data has fingerprint {progress.data[:12]} in {checkpoint} and "
        f"{tokens.fingerprint[:12]} here ({len(tokens):,} tokens); resume with the data that "
        f"the run began with, or pass --allow-data-change: {meaning}"
    )


def _describe_changes(
    request: RunRequest,
    checkpoint: Checkpoint,
    recipe: Recipe,
    unit: str,
    total: int,
    counts_steps: bool = False,
) -> list[str]:
    """What changes from here on. Raises HermesError for a change that must be allowed first."""
    progress = checkpoint.progress
    changes = []
    batch = find_batch_change(checkpoint.path, progress, recipe, unit, request.world_size)
    if batch and counts_steps:
        raise HermesError(
            f"{batch.found}, and the weights of the data change at steps of as many samples as "
            "before; keep the product of --batch-size, --grad-accum and processes"
        )
    if batch:
        changes.append(batch.meaning)
    if total != progress.total_steps and progress.step < total:
        changes.append(_describe_length(recipe, progress.total_steps, total))
    if batch and not request.allow_batch_change:
        raise HermesError(
            f"{batch.found}; keep the product, or pass --allow-batch-change: {'; '.join(changes)}"
        )
    return changes


def _describe_length(recipe: Recipe, before: int, now: int) -> str:
    words = f"the run ends at step {now:,}, where it would have ended at {before:,}"
    if recipe.schedule != "constant":
        words += f"; the rest of its {recipe.schedule} schedule changes with that"
    return words
