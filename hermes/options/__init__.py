"""The one table of options: what every command of hermes takes, as plain data.

The command line builds its parameters from it, and the keyword arguments of the functions in
`hermes` take their defaults from it, so that the two cannot differ. `OPTIONS` says what each option
is, `COMMANDS` which command has it and what differs there.
"""

from hermes.options.commands import COMMANDS, get_options
from hermes.options.option import GROUPS, Argument, CommandOptions, Option, Scope
from hermes.options.table import OPTIONS

__all__ = [
    "COMMANDS",
    "GROUPS",
    "OPTIONS",
    "Argument",
    "CommandOptions",
    "Option",
    "Scope",
    "get_options",
]
