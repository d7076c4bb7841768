"""The declaration of a command's option and of its Python argument."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hermes.errors import HermesError

__all__ = ["GROUPS", "GROUP_OF_REST", "Argument", "CommandOptions", "Option", "Overrides", "Scope"]

# What becomes of an option's value when its run is resumed:
# recipe   the checkpoint has it, as a field of its recipe
# run      run.yaml has it, and a resumed run takes it from there
# machine  run.yaml records it, but each session chooses it anew
# call     it belongs to one call of the command, and run.yaml does not have it
Scope = Literal["recipe", "run", "machine", "call"]

GROUP_OF_REST = "Options"
# The headings of --help, in the order in which it shows them.
GROUPS = (
    "Data",
    "Text format",
    "Sequences",
    "Conversations",
    "Preferences",
    "Model",
    "LoRA adapters",
    "Optimization",
    "Optimizer",
    "Run length",
    "Schedule",
    "Evaluation and logging",
    "Bad steps",
    "Samples and trackers",
    "Checkpoints",
    "Safeguards",
    "Sampling",
    "Penalties and bans",
    "Files of prompts",
    "Server",
    "Tasks",
    "Backends",
    "Selection",
    "Reports",
    "Distributed",
    "Device",
    "Configuration",
    GROUP_OF_REST,
)

Kind = type[str] | type[int] | type[float] | type[bool] | type[Path]


@dataclass(frozen=True)
class Option:
    """An option of one or several commands.

    name: what follows the dashes, with underscores; also its key in run.yaml and in files given
    with --config. short: a one-letter flag; alias: a second long flag. negatable: whether a bool
    has a `--no-` form. parameter: the keyword in Python where it is not the name.

    default: of the value when the option is left out; default_text says in help what then holds
    where no constant does. choices: shown in help; only with closed_choices does the command line
    refuse others itself, else the library does, which may know more of them. multiple: may be
    given several times, and collects a tuple. nargs: how many values it takes each time; of
    several, a tuple.

    scope: what becomes of it on resume. recipe_field: its name in the recipe, for that scope.
    fixed: resuming a run with another value is refused. is_path: its value may name a file, which
    run.yaml has by its absolute path. per_rank: ranks of one run may be given different values.
    repeated: the command that a stopped run suggests for resuming has it again. Where it is no
    option of a command that trains, these six say nothing.
    """

    name: str
    help: str
    type: Kind = str
    default: object = None
    default_text: str = ""
    short: str = ""
    alias: str = ""
    negatable: bool = False
    metavar: str = ""
    choices: tuple[str, ...] = ()
    closed_choices: bool = False
    multiple: bool = False
    nargs: int = 1
    required: bool = False
    group: str = GROUP_OF_REST
    parameter: str = ""
    scope: Scope = "run"
    recipe_field: str = ""
    fixed: bool = False
    is_path: bool = False
    per_rank: bool = False
    repeated: bool = False

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise HermesError(f"option {self.name}: there is no group {self.group!r}")
        if bool(self.recipe_field) != (self.scope == "recipe"):
            raise HermesError(f"option {self.name}: scope recipe and recipe_field go together")

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value on the command line."""
        return self.type is bool

    @property
    def flags(self) -> tuple[str, ...]:
        """As they are typed, the long one first: ('--batch-size', '-b')."""
        long = f"--{self.name.replace('_', '-')}"
        long = f"{long}/--no-{long[2:]}" if self.negatable else long
        return tuple(filter(None, (long, self.alias, self.short)))

    @property
    def keyword(self) -> str:
        """Its name as a parameter in Python."""
        return self.parameter or self.name


@dataclass(frozen=True)
class Argument:
    """A positional argument of a command. repeated: any number of them, at least one if required.

    metavar: how usage and help show it. is_model: whether bundled models go by their names.
    """

    name: str
    help: str
    metavar: str
    type: Kind = str
    repeated: bool = False
    required: bool = True
    is_model: bool = False


# By the option's name: fields of Option that have another value for one command.
Overrides = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CommandOptions:
    """A command's options by name, its positional arguments, and what differs from the table.

    grouped: help shows the options under their groups' headings.
    """

    options: tuple[str, ...] = ()
    arguments: tuple[Argument, ...] = ()
    overrides: Overrides = field(default_factory=dict)
    grouped: bool = False
