"""`hermes plan`: what a run will need, before it begins."""

from pathlib import Path
from typing import Any

import click

from hermes import mal
from hermes.errors import HermesError
from hermes.interop.architecture import read_architecture
from hermes.options import get_options
from hermes.options.training_commands import TRAINING_COMMANDS
from hermes_cli.display.printing import print_json, print_lines
from hermes_cli.options.config_file import COMMAND_LINE, OptionFile, merge_values
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.resolve import parse_edit, read_config


@declare_command("plan")
@click.pass_context
def plan(context: click.Context, /, **_: Any) -> None:
    """Plan a run: memory, largest micro-batch, hours, energy and price.

    Takes the options of hermes train that matter for these, also from a file with --config, such as
    the run.yaml of a run; other options of such a file are passed over. Nothing is built or read
    but the architecture.
    """
    import hermes

    config = context.params["config"]
    files = [] if config is None else [_keep_own(read_config(Path(config)))]
    values, sources = merge_values(context, files)
    if found := context.params["found"]:
        if sources["model"] == COMMAND_LINE:
            raise HermesError("give one model, not two: MODEL or --model")
        values["model"] = found
    edits = dict(parse_edit(edit) for edit in values.pop("set"))
    changes = {key[6:]: value for key, value in edits.items() if key.startswith("model.")}
    spec = read_architecture(values.pop("model"))
    if changes:
        spec = mal.edit_all(spec, changes)
    as_json = values.pop("json")
    values.pop("config")
    planned = hermes.plan(spec, **values)
    if as_json:
        print_json(planned.to_dict())
    else:
        print_lines(repr(planned).splitlines())


def _keep_own(file: OptionFile) -> OptionFile:
    """A file without the options that a run has and its plan does not need.

    Processes of the whole run are what a recipe starts, or what a run.yaml's numbers are for, and
    its tokens those that it trains on. The architecture is that of the model that it starts from.
    """
    own = get_options("plan")
    known = set().union(*(get_options(name) for name in TRAINING_COMMANDS))
    values = {key.replace("-", "_"): value for key, value in file.values.items()}
    kept = {key: value for key, value in values.items() if key in own or key not in known}
    count = str(file.processes) if file.processes else values.get("num_gpus")
    if count is not None:
        kept.setdefault("num_processes", count)
    if values.get("checkpoint"):  # a run.yaml has the default of `model` beside
        kept["model"] = values["checkpoint"]
    if values.get("train_tokens") not in (None, "0"):
        kept.setdefault("tokens", values["train_tokens"])
    return OptionFile(file.source, kept, file.processes)
