"""The options of a training command, resolved, and what the library needs to know of them.

The command line takes precedence over --config, that over the run.yaml of a resumed run, and that
over the defaults.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import HermesError
from hermes.options import OPTIONS
from hermes.options.synonyms import suggest_option
from hermes_cli.options.config_file import (
    COMMAND_LINE,
    OptionFile,
    get_click_options,
    merge_values,
    read_value,
)

if TYPE_CHECKING:
    from hermes.distributed.process_group import ProcessGroup
    from hermes.interface import Backend

__all__ = [
    "RECIPE_FIELDS",
    "ResolvedOptions",
    "collect_recipe_fields",
    "collect_settings",
    "parse_edit",
    "read_config",
    "require_same_options",
]

# The field of the recipe that each option sets.
RECIPE_FIELDS = {name: entry.recipe_field for name, entry in OPTIONS.items() if entry.recipe_field}
MODEL_CONFIGS = (".json", ".mal")
TRAINING_COMMANDS = ("train", "finetune", "sft", "dpo")
OF_A_START = ("verbose", "quiet", "log_file")
# The source of those values of a resumed run that are its checkpoint's.
OF_THE_RUN = "the run's"


class ResolvedOptions:
    """A training command's options by name: options["batch_size"].

    values, sources: each option's value and what set it. is_resumed: whether --resume was given and
    the run has a checkpoint. edits: what --set changes, given now; earlier_edits: what it changed
    when the run was started. split_among: how many processes batch_size and grad_accum are for,
    where both come from a file that says so. model_config: the value of --config, where the command
    takes a model's config there and it is one.
    """

    def __init__(self, context: click.Context, *, model_config: bool = False):
        """Resolve them. Raises HermesError where the run in --output is another one."""
        config = context.params["config"]
        self.model_config = None
        if model_config and config and Path(config).suffix in MODEL_CONFIGS:
            self.model_config, config = Path(config), None
        files = [] if config is None else [read_config(Path(config))]
        values, _ = merge_values(context, files)
        run = Path(values["output"]) / "run.yaml"
        self.is_resumed = values["resume"] and _has_checkpoint(run.parent)
        if values["resume"] and run.is_file():
            _require_command(context, run)
            files.insert(0, _read_run(run, has_checkpoint=self.is_resumed))
        self.values, self.sources = merge_values(context, files)
        batch = {self.sources[name] for name in ("batch_size", "grad_accum")}
        processes = {file.source: file.processes for file in files}
        self.split_among = processes.get(batch.pop()) if len(batch) == 1 else None
        self._not_given = {"default", OF_THE_RUN, *([str(run)] if self.is_resumed else [])}
        given = [file for file in files if file.source not in self._not_given]
        self.edits = {key: value for file in given for key, value in _list_edits(file)}
        self.edits |= dict(parse_edit(edit) for edit in context.params["edits"])
        self.earlier_edits: dict[str, str] = {}
        if self.is_resumed and run.is_file():
            self._require_same_run(context, files[0])
            self.earlier_edits = dict(_list_edits(files[0]))
            for name in RECIPE_FIELDS:
                if self.sources.get(name) == "default":
                    self.sources[name] = OF_THE_RUN
        if more := context.params.get("more"):
            self.values["data"] = (*self.values["data"], *more)
            self.sources["data"] = COMMAND_LINE

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def list_model_edits(self) -> dict[str, str]:
        """What --set model.KEY changes, by KEY."""
        start = "model."
        return {k.removeprefix(start): v for k, v in self.edits.items() if k.startswith(start)}

    def is_given(self, name: str) -> bool:
        """Whether the user gave it in this call, on the command line or with --config."""
        return name in self.values and self.sources[name] not in self._not_given

    def _require_same_run(self, context: click.Context, earlier: OptionFile) -> None:
        """Refuse a value that would make it another run. Raises HermesError."""
        for name, entry in OPTIONS.items():
            if not entry.fixed or not self.is_given(name):
                continue
            there, here = read_value(context, earlier, name), self.values[name]
            is_same = _is_same_path(there, here) if entry.is_path else there == here
            if is_same or (name == "checkpoint" and self._may_have_moved(there)):
                continue
            raise HermesError(
                f"{_get_flag(name)} is {_format(there)} in {earlier.source} and {_format(here)} "
                "here; leave it out to resume the run, or choose another --output for a new one"
            )

    def _may_have_moved(self, checkpoint: str | None) -> bool:
        """Whether the reference model may be elsewhere now; the hash of its weights will tell."""
        has_reference = self.values.get("loss") in ("sigmoid", "ipo", "hinge")
        return has_reference and checkpoint is not None and not os.path.exists(checkpoint)


def _get_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _format(value: object) -> str:
    """A value as a message shows it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _is_same_path(there: str | None, here: str) -> bool:
    """Whether both are the same file, folder or repository; `here` may leave out the commit."""
    if there is None:
        return False
    return there in (here, os.path.abspath(here)) or there.startswith(f"{here}@")


def _has_checkpoint(run: Path) -> bool:
    from hermes.checkpoint import list_steps

    return bool(list_steps(run))


def _require_command(context: click.Context, run: Path) -> None:
    """Refuse to resume a run of another command, told by its options. Raises HermesError."""
    names = {key.replace("-", "_") for key in _read_options(run).values}
    if names <= {*get_click_options(context.command)}:
        return
    root = context.find_root()
    assert isinstance(root.command, click.Group), "the root has the commands"
    for name in TRAINING_COMMANDS:
        command = root.command.get_command(root, name)
        if command is not None and names <= {*get_click_options(command)}:
            output = shlex.quote(str(run.parent))
            raise HermesError(
                f"{run.parent} was started by hermes {name}; resume it with: hermes {name} "
                f"--resume --output {output}"
            )


def read_config(path: Path) -> OptionFile:
    """Read the YAML file of --config. Raises HermesError where it is no YAML or has no options."""
    if path.suffix not in (".yaml", ".yml"):
        why = "a .json is a model's config; an architecture to train goes to --model"
        raise HermesError(f"{path}: --config takes a run's options as .yaml ({why})")
    file = _read_options(path)
    if not file.values:
        raise HermesError(
            f"{path} has no options; leave out --config, or give a file that has some"
        )
    return file


def _read_options(path: Path) -> OptionFile:
    from hermes.storage.strict_yaml import read_text_mapping
    from hermes.training.run_yaml import FACTS, PROCESSES, SESSIONS

    values = read_text_mapping(path)
    said = values.get(PROCESSES)
    if said is not None and not (isinstance(said, str) and said.isdecimal() and int(said) > 0):
        raise HermesError(f"{path}: {PROCESSES} is {said!r}; expected a whole number above 0")
    processes = None if said is None else int(said)
    # The run.yaml of an earlier version has what was meant for that start of the run alone.
    left = (*FACTS, *OF_A_START) if SESSIONS in values else FACTS
    own = {key: value for key, value in values.items() if key not in left}
    return OptionFile(str(path), own, processes)


def _read_run(path: Path, *, has_checkpoint: bool) -> OptionFile:
    """What a resumed run takes from its run.yaml: the recipe only if no checkpoint has it yet.

    Keys that are no options are left in, and are refused when they are merged.
    """
    scopes = ("run",) if has_checkpoint else ("run", "recipe")
    file = _read_options(path)
    if not file.values:
        raise HermesError(
            f"{path} is empty, as a power failure may leave it; remove it, and give the run's "
            "options once more with --resume"
        )
    kept = {
        key: value
        for key, value in file.values.items()
        if key not in OPTIONS or OPTIONS[key].scope in scopes
    }
    return replace(file, values=kept)


def _list_edits(file: OptionFile) -> list[tuple[str, str]]:
    edits = file.values.get("set")
    return [(key, str(value)) for key, value in edits.items()] if isinstance(edits, Mapping) else []


def parse_edit(text: str) -> tuple[str, str]:
    """Split KEY=VALUE. Raises HermesError where KEY or = is missing."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise HermesError(f"--set {text}: expected KEY=VALUE, as in model.num_layers=2")
    return key.strip(), value.strip()


def collect_recipe_fields(options: ResolvedOptions) -> dict[str, object]:
    """Collect the fields of the recipe that the user gave, by options and by --set.

    Raises HermesError for a field that does not exist, is given twice, or has another type.
    """
    from hermes.recipe import Recipe, flatten_recipe

    own = [name for name in RECIPE_FIELDS if options.is_given(name)]
    given = {RECIPE_FIELDS[name]: options[name] for name in own}
    known = flatten_recipe(Recipe())
    for key, text in options.edits.items():
        if key.startswith("model."):
            continue
        field = RECIPE_FIELDS.get(key, key)
        if field not in known:
            hint = suggest_option(key, [*known, *RECIPE_FIELDS])
            raise HermesError(f"--set {key}: there is no such setting{hint}")
        if field in given:
            raise HermesError(f"{key} is given twice, as an option and with --set")
        given[field] = _convert_edit(key, text, known[field])
    return given


def _convert_edit(key: str, text: str, default: object) -> object:
    """The text of an edit as the type of the field's default. Raises HermesError."""
    try:
        match default:
            case bool():
                return {"true": True, "false": False}[text.lower()]
            case int():
                return int(text)
            case float():
                return float(text)
            case str():
                return text
    except (KeyError, ValueError):
        wanted = "a whole number" if isinstance(default, int) else "a number"
        wanted = "true or false" if isinstance(default, bool) else wanted
        raise HermesError(f"--set {key}: expected {wanted}, got {text!r}") from None
    raise HermesError(f"--set {key}: not a single value, so it cannot be set on the command line")


def collect_settings(options: ResolvedOptions) -> dict[str, object]:
    """Collect what run.yaml has besides the recipe.

    Files are there by their absolute paths, and models on the Hub by their commits.
    """
    from hermes.data.mixture_sources import locate_data
    from hermes.data.remote import locate_source
    from hermes.interop.hub import pin_commit

    settings = {
        name: value
        for name, value in options.values.items()
        if OPTIONS[name].scope in ("run", "machine") and name != "set"
    }
    data = options["data"] or ("-",)
    settings["data"] = [locate_data(name) for name in data]
    if settings.get("val_data"):
        settings["val_data"] = [locate_source(name) for name in options["val_data"]]
    for name, value in settings.items():
        if OPTIONS[name].is_path and value:
            pinned = pin_commit(str(value))
            settings[name] = os.path.abspath(pinned) if os.path.exists(pinned) else pinned
    edits = options.earlier_edits | options.edits
    return settings | {f"set.{key}": value for key, value in edits.items()}


def require_same_options(
    command: str, options: ResolvedOptions, backend: "Backend", process_group: "ProcessGroup"
) -> None:
    """Refuse ranks of one run that were given different options. Raises HermesError."""
    from hermes.training import rank_checks

    values = {**rank_checks.collect_versions(backend), "the command": f"hermes {command}"}
    values["whether --output has a checkpoint to resume from"] = options.is_resumed
    for name, value in options.values.items():
        is_of_the_run = options.sources.get(name) == OF_THE_RUN
        if not OPTIONS[name].per_rank:
            values[_get_flag(name)] = OF_THE_RUN if is_of_the_run else value
    values |= {f"--set {key}": value for key, value in options.edits.items()}
    advice = "all processes of a run take the same options and run the same versions"
    rank_checks.require_same_on_all_ranks(process_group, values, advice)
