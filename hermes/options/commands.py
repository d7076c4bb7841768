"""Which command has which options, and what differs there from the table."""

import dataclasses

from hermes.options.conformance_commands import CONFORMANCE_COMMANDS
from hermes.options.model_commands import MODEL_COMMANDS
from hermes.options.option import CommandOptions, Option
from hermes.options.table import OPTIONS
from hermes.options.tool_commands import TOOL_COMMANDS
from hermes.options.training_commands import TRAINING_COMMANDS

__all__ = ["COMMANDS", "get_options"]

COMMANDS: dict[str, CommandOptions] = (
    TRAINING_COMMANDS | MODEL_COMMANDS | TOOL_COMMANDS | CONFORMANCE_COMMANDS
)


def get_options(command: str) -> dict[str, Option]:
    """A command's options by name, as it has them: get_options("sft")["batch_size"].default."""
    own = COMMANDS[command]
    return {
        name: dataclasses.replace(OPTIONS[name], **own.overrides.get(name, {}))
        for name in own.options
    }
