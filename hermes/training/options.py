"""From the arguments of a public training function to the request of a run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.arguments import Call
from hermes.checkpoint import RetentionPolicy
from hermes.data.document_reader import TextFormat
from hermes.data.loading import DataOptions
from hermes.data.mixture_sources import locate_data, spell_mixture
from hermes.data.remote import locate_source
from hermes.errors import HermesError
from hermes.interop.hub import pin_commit
from hermes.options import OPTIONS, get_options
from hermes.options.training_commands import TRAINING_COMMANDS
from hermes.recipe import LossScaling, OptimizerRecipe, Recipe, flatten_recipe
from hermes.size_schedule import find_size, parse_size_schedule
from hermes.storage.addresses import expand_home
from hermes.tracking.registry import find_trackers
from hermes.training.host import RunHost
from hermes.training.request import RowOptions, RunRequest
from hermes.training.samples import SampleOptions, read_prompts

__all__ = [
    "ROW_OPTIONS",
    "choose_samples",
    "list_files",
    "list_names",
    "make_data_options",
    "make_request",
    "make_row_options",
    "make_settings",
    "make_text_format",
    "read_recipe_fields",
]

ROW_OPTIONS = ("pack", "overlong", "hold_out")
RECIPE_FIELDS = {name: entry.recipe_field for name, entry in OPTIONS.items() if entry.recipe_field}

# Arguments such as `stop` have the name of another command's option, and are none here.
OF_TRAINING = {name for command in TRAINING_COMMANDS for name in get_options(command)}


def list_files(call: Call) -> tuple[str, ...]:
    """The names of the files to train on, with their weights. Raises HermesError for none."""
    data = call["data"]
    if isinstance(data, Mapping):
        return spell_mixture(data)
    names = (data,) if isinstance(data, str | Path) else tuple(data)
    if not names:
        raise HermesError("no data: give data=FILE, a folder or a list of files")
    return tuple(expand_home(str(name)) for name in names)


def list_names(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """The names that an argument for one or several files has."""
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))


def make_text_format(call: Call) -> TextFormat:
    """How the text of a call is read as documents. Raises DataError."""
    return TextFormat(call["text_field"], call["format"], call["documents"], call["no_header"])


def make_data_options(call: Call, host: RunHost) -> DataOptions:
    """How the data of a call is read. Raises DataError."""
    return DataOptions(
        make_text_format(call),
        call["max_bad_records"] if call["skip_bad_records"] else None,
        Path(call["cache_dir"]) if call["cache_dir"] else None,
        tell=host.tell,
        force=call["force"],
    )


def make_row_options(call: Call) -> RowOptions:
    """How the text of a call is laid out in rows. Raises HermesError."""
    if not call["pack"] and call["document_mask"]:
        raise HermesError("--no-pack has one document a row, so leave --document-mask out")
    if call["pack"] and call["overlong"] != "error":
        raise HermesError(
            "--overlong is for documents longer than a row; packed ones continue in the next row: "
            "leave it out, or give --no-pack"
        )
    return RowOptions(call["pack"], call["overlong"], call["hold_out"])


def read_recipe_fields(call: Call, *, defaults: bool = False) -> dict[str, object]:
    """Recipe fields that the caller gave, by the recipe's names; with `defaults` all of them."""
    own = {
        field: call[name]
        for name, field in RECIPE_FIELDS.items()
        if name in call.values and (defaults or call.has_given(name))
    }
    optimizer: str | OptimizerRecipe | None = own.pop("optimizer.name", None)
    if isinstance(optimizer, str):
        own["optimizer.name"] = optimizer
    elif optimizer is not None:
        for name in ("weight_decay", "moments"):
            if call.has_given(name):
                raise HermesError(f"{name} is given twice, by itself and in optimizer")
        own |= {f"optimizer.{name}": value for name, value in vars(optimizer).items()}
    scaling = own.get("loss_scaling.initial")
    if isinstance(scaling, LossScaling):
        own |= {f"loss_scaling.{name}": value for name, value in vars(scaling).items()}
    sizes = parse_size_schedule("batch_size_schedule", str(own.get("batch_size_schedule", "")))
    size = call["batch_size"]
    if call.has_given("batch_size") and (begins := find_size(sizes, 0, size)) != size:
        raise HermesError(
            f"batch_size is {size}, and batch_size_schedule begins with {begins}; leave one of "
            "them out"
        )
    return own


def _check_loss_scaling(fields: Mapping[str, object], precision: str) -> None:
    """Refuse settings of loss scaling under a precision that has none. Raises HermesError."""
    defaults = flatten_recipe(Recipe())
    for name, value in fields.items():
        if name.startswith("loss_scaling.") and precision != "float16" and value != defaults[name]:
            option = "--loss-scale" if name == "loss_scaling.initial" else name
            raise HermesError(
                f"{option} belongs to precision float16, and the run's is {precision}; leave it "
                "out, or choose --precision float16"
            )


def make_settings(call: Call) -> tuple[dict[str, object], dict[str, str]]:
    """What run.yaml has besides the recipe, and what set each value.

    Files are there by their absolute paths, and models on the Hub by their commits.
    """
    settings: dict[str, object] = {
        name: value
        for name, value in call.values.items()
        if name in OF_TRAINING and OPTIONS[name].scope in ("run", "machine")
    }
    names = list_files(call)
    settings["data"] = [locate_data(name) for name in names]
    if settings.get("val_data"):
        settings["val_data"] = [locate_source(str(name)) for name in list_names(call["val_data"])]
    for name, value in list(settings.items()):
        if not OPTIONS[name].is_path or value is None:
            continue
        if isinstance(value, str | Path):
            pinned = pin_commit(str(value))
            settings[name] = os.path.abspath(pinned) if os.path.exists(pinned) else pinned
        else:  # a Tokenizer or a ModelSpec, which the checkpoint has
            del settings[name]
    sources = {name: "argument" if call.has_given(name) else "default" for name in call.values}
    return settings, sources


def choose_samples(call: Call) -> SampleOptions:
    """The samples that a run is asked to make. Raises HermesError."""
    prompts = tuple(list_names(call["sample_prompt"]))
    if call["sample_prompts"] is not None:
        prompts += read_prompts(Path(call["sample_prompts"]))
    return SampleOptions(call["sample_every"], prompts or ("",), call["sample_tokens"])


def make_request(call: Call, host: RunHost, given: Mapping[str, object], **more: Any) -> RunRequest:
    """The request of a run. given: recipe fields; more: further fields of RunRequest."""
    settings, sources = host.make_settings(call) if host.make_settings else make_settings(call)
    settings = {**settings, "precision": host.options.precision}  # what "auto" came to
    _check_loss_scaling({**given, **host.edits}, host.options.precision)
    keep = RetentionPolicy(call["keep_last"], call["keep_every"], call["keep_best"])
    return RunRequest(
        output=Path(call["output"]),
        data=list_files(call),
        backend=host.backend,
        options=host.options,
        given={**given, **host.edits},
        resume=call["resume"],
        allow_batch_change=call["allow_batch_change"],
        log_every=call["log_every"],
        keep=keep,
        allow_data_change=call["allow_data_change"],
        settings=settings,
        sources=sources,
        process_group=host.process_group,
        split_among=host.split_among,
        save_minutes=call["save_minutes"],
        save_every_epoch=call["save_every_epoch"],
        patience=call["patience"],
        min_delta=call["min_delta"],
        on_nonfinite=call["on_nonfinite"],
        on_spike=call["on_spike"],
        spike_sigma=call["spike_sigma"],
        spike_window=call["spike_window"],
        gradient_noise_scale=call["gradient_noise_scale"],
        samples=choose_samples(call),
        trackers=find_trackers(list_names(call["track"])) if host.leads else {},
        track_project=call["track_project"],
        force=call["force"],
        dry_run=call["dry_run"],
        auto_batch=call["auto_batch"],
        on_model=host.on_model,
        **more,
    )
