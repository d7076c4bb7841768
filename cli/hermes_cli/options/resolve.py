"""What a user asked of a command that trains: the command line over a file over the defaults."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import HermesError, suggest_nearest
from hermes.options import OPTIONS
from hermes_cli.options.config_file import (
    COMMAND,
    Layer,
    layered,
    option_names,
    read_yaml,
    value_in,
)

if TYPE_CHECKING:
    from hermes.distributed.process_group import ProcessGroup
    from hermes.interface import Backend

__all__ = ["RECIPE", "ResolvedOptions", "given_of", "require_alike", "settings_of"]

# The field of the recipe that each option sets.
RECIPE = {option.name: option.recipe_field for option in OPTIONS.values() if option.recipe_field}
MODEL_CONFIGS = (".json", ".mal")
# The commands that train, in the order in which a run's run.yaml is tried for them.
TRAINING_COMMANDS = ("train", "finetune", "sft", "dpo")
# The source of a recipe's field that a resumed run takes from its checkpoint.
OF_THE_RUN = "the run's"


class ResolvedOptions:
    """The command's options after all layers, and which of them a user gave.

    model_config: where --config may be a model's, as beside bare weights: that file. goes_on: the
    run has saved a checkpoint. split_among: how many processes the batch options are of, where a
    file has both.
    """

    def __init__(self, context: click.Context, *, model_config: bool = False):
        config = context.params["config"]
        self.model_config = None
        if model_config and config and Path(config).suffix in MODEL_CONFIGS:
            self.model_config, config = Path(config), None
        layers = [] if config is None else [_config(Path(config))]
        values, _ = layered(context, layers)
        run = Path(values["output"]) / "run.yaml"
        saved = values["resume"] and _has_saved(run.parent)
        if values["resume"] and run.is_file():
            # A checkpoint holds its run's recipe; of a run without one, this file does.
            _require_command(context, run)
            own = _options_of(run)
            scopes = ("run",) if saved else ("run", "recipe")
            kept = {k: v for k, v in own.values.items() if _is_kept(k, scopes)}
            layers.insert(0, replace(own, values=kept))
        self.values, self.sources = layered(context, layers)
        self.goes_on = saved
        batch = {self.sources[name] for name in ("batch_size", "grad_accum")}
        among = {layer.source: layer.processes for layer in layers}
        self.split_among = among.get(batch.pop()) if len(batch) == 1 else None
        self.unasked = ("default", OF_THE_RUN, *([str(run)] if saved else []))
        asked = [layer for layer in layers if layer.source not in self.unasked]
        self.edits = {key: value for layer in asked for key, value in _mapping(layer)}
        self.edits |= dict(_edit(edit) for edit in context.params["edits"])
        self.earlier_edits: dict[str, str] = {}
        if saved and run.is_file():
            self._require_same(context, layers[0])
            self.earlier_edits = dict(_mapping(layers[0]))
            for name in RECIPE:
                if self.sources.get(name) == "default":
                    self.sources[name] = OF_THE_RUN
        if more := context.params.get("more"):
            self.values["data"] = (*self.values["data"], *more)
            self.sources["data"] = COMMAND

    def _require_same(self, context: click.Context, earlier: Layer) -> None:
        """Refuse what would make it another run. Raises HermesError."""
        fixed = [name for name, option in OPTIONS.items() if option.fixed]
        for name in filter(self.asked, fixed):
            there, here = value_in(context, earlier, name), self.values[name]
            same = _same_place(there, here) if OPTIONS[name].is_path else there == here
            if name == "checkpoint" and self._may_have_moved(there):
                continue
            if not same:
                option = f"--{name.replace('_', '-')}"
                raise HermesError(
                    f"{option} is {_plain(there)} in {earlier.source} and {_plain(here)} here; "
                    "leave it out to go on with the run, or choose another --output for a new one"
                )

    def _may_have_moved(self, checkpoint: str | None) -> bool:
        """Whether another name may stand for it, as its weights will tell by their hash."""
        compared = self.values.get("loss") in ("sigmoid", "ipo", "hinge")
        return compared and checkpoint is not None and not os.path.exists(checkpoint)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def asked(self, name: str) -> bool:
        """Whether the user gave it now, on the command line or with --config."""
        return name in self.values and self.sources[name] not in self.unasked


def _is_kept(key: str, scopes: Sequence[str]) -> bool:
    """Whether a resumed run takes this key of its run.yaml; unknown ones are refused later."""
    option = OPTIONS.get(key)
    return option is None or option.scope in scopes


def _plain(value: object) -> str:
    return {None: "none", True: "on", False: "off"}.get(value, str(value))  # type: ignore[call-overload]


def _same_place(there: str | None, here: str) -> bool:
    """Whether both name the same file, folder or repository; a commit may be left out here."""
    if there is None:
        return False
    return there in (here, os.path.abspath(here)) or there.startswith(f"{here}@")


def _has_saved(run: Path) -> bool:
    from hermes.checkpoint import list_steps

    return bool(list_steps(run))


def _require_command(context: click.Context, run: Path) -> None:
    """Refuse a run of another command, by the options that it has. Raises HermesError."""
    keys = {key.replace("-", "_") for key in _options_of(run).values}
    if keys <= {*option_names(context.command)}:
        return
    root = context.find_root()
    assert isinstance(root.command, click.Group), "the root has the commands"
    for name in TRAINING_COMMANDS:
        command = root.command.get_command(root, name)
        if command is not None and keys <= {*option_names(command)}:
            output = shlex.quote(str(run.parent))
            raise HermesError(
                f"{run.parent} was begun by hermes {name}; go on with: hermes {name} --resume "
                f"--output {output}"
            )


def _config(path: Path) -> Layer:
    if path.suffix not in (".yaml", ".yml"):
        why = "a .json is a model's config; an architecture to train goes to --model"
        raise HermesError(f"{path}: --config takes a run's options as .yaml ({why})")
    return _options_of(path)


def _options_of(path: Path) -> Layer:
    from hermes.training.run_yaml import FACTS, PROCESSES

    values = read_yaml(path)
    said = values.get(PROCESSES)
    if said is not None and not (isinstance(said, str) and said.isdecimal() and int(said) > 0):
        raise HermesError(f"{path}: {PROCESSES} is {said!r}; expected a number from 1 on")
    number = None if said is None else int(said)
    return Layer(str(path), {k: v for k, v in values.items() if k not in FACTS}, number)


def _mapping(layer: Layer) -> list[tuple[str, str]]:
    held = layer.values.get("set")
    return [(key, str(value)) for key, value in held.items()] if isinstance(held, Mapping) else []


def _edit(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise HermesError(f"--set {text}: expected KEY=VALUE, as in model.num_layers=2")
    return key.strip(), value.strip()


def given_of(options: ResolvedOptions) -> dict[str, object]:
    """Fields of the recipe that the user gave, the edits of `--set` among them."""
    from hermes.recipe import Recipe, flatten_recipe

    own = [name for name in RECIPE if name in options.values]
    given = {RECIPE[name]: options[name] for name in own if options.asked(name)}
    known = flatten_recipe(Recipe())
    for key, text in options.edits.items():
        if key.startswith("model."):
            continue
        name = RECIPE.get(key, key)
        if name not in known:
            every = [*known, *RECIPE]
            raise HermesError(f"--set {key}: there is no such setting{suggest_nearest(key, every)}")
        if name in given:
            raise HermesError(f"{key} is given twice, as an option and with --set")
        given[name] = _typed(key, text, known[name])
    return given


def _typed(key: str, text: str, default: object) -> object:
    """An edit's text as the type that the recipe has there."""
    try:
        match default:
            case int():
                return int(text)
            case float():
                return float(text)
            case str():
                return text
    except ValueError:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise HermesError(f"--set {key}: expected {wanted}, got {text!r}") from None
    raise HermesError(f"--set {key}: not a single value; it has no form on the command line")


def settings_of(options: ResolvedOptions) -> dict[str, object]:
    """What run.yaml says beside the recipe; files by their full names, models by their commits."""
    from hermes.interop.hub import pin_commit

    kept = {
        name: value
        for name, value in options.values.items()
        if OPTIONS[name].scope in ("run", "machine") and name != "set"
    }
    data = options["data"] or ("-",)
    kept["data"] = [name if name == "-" else os.path.abspath(name) for name in data]
    for name, value in kept.items():
        if OPTIONS[name].is_path and value:
            found = pin_commit(str(value))
            kept[name] = os.path.abspath(found) if os.path.exists(found) else found
    edits = options.earlier_edits | options.edits
    return kept | {f"set.{key}": value for key, value in edits.items()}


def require_alike(
    command: str, options: ResolvedOptions, backend: "Backend", processes: "ProcessGroup"
) -> None:
    """Refuse to go on where the processes were asked for other things. Raises HermesError."""
    from hermes.training import rank_checks

    values = {**rank_checks.software_versions(backend), "the command": f"hermes {command}"}
    values["whether --output has a checkpoint to go on from"] = options.goes_on
    for name, value in options.values.items():
        own = options.sources.get(name) == OF_THE_RUN
        if not OPTIONS[name].per_rank:
            values[f"--{name.replace('_', '-')}"] = OF_THE_RUN if own else value
    values |= {f"--set {key}": value for key, value in options.edits.items()}
    advice = "all processes of a run take the same options and run the same versions"
    rank_checks.require_same_on_all_ranks(processes, values, advice)
