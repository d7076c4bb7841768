"""Click commands whose parameters come from the table of options, `hermes.options`."""

import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from hermes.arguments import SHORT_NAMES
from hermes.errors import HermesError, SpecError
from hermes.options import COMMANDS, GROUPS, Argument, Option, get_options
from hermes.options.option import GROUP_OF_REST
from hermes.storage.addresses import expand_home
from hermes_cli.display.help_sections import NO_BREAK, Row, strip_period, write_sections
from hermes_cli.options.completion import complete_argument, complete_option
from hermes_cli.options.error_names import name_options

__all__ = ["TableArgument", "TableCommand", "TableOption", "declare_command"]

METAVARS = {int: "N", float: "FLOAT", str: "TEXT", Path: "PATH"}
LONGEST_UNBROKEN = 40


class NamedChoice(click.Choice[str]):
    """A choice that also understands the short names of types of numbers, such as bf16."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The choice; raises click's BadParameter."""
        return super().convert(SHORT_NAMES.get(value, value), param, ctx)


class FileName(click.ParamType[str]):
    """A name of a file or folder, perhaps with ~ for the user's folder, or of something else."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, with the user's folder in place of ~."""
        return expand_home(str(value))


class FilePath(click.Path):
    """A path, perhaps with ~ for the user's folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, with the user's folder in place of ~."""
        return super().convert(expand_home(str(value)), param, ctx)


class TableOption(click.Option):
    """A click option as an entry of the table declares it."""

    def __init__(self, entry: Option):
        self.entry = entry
        settings: dict[str, Any] = {"type": _get_click_type(entry)}
        if entry.is_flag:
            settings = {"is_flag": True, "default": entry.default}
        elif entry.default is not None:
            settings["default"] = entry.default
        metavar = entry.metavar or METAVARS.get(entry.type, "")
        if entry.choices:
            metavar = f"[{'|'.join(entry.choices)}]"
        super().__init__(
            [entry.keyword, *entry.flags],
            help=entry.help,
            multiple=entry.multiple,
            nargs=entry.nargs,
            required=entry.required,
            metavar=None if entry.is_flag else metavar,
            show_default=False,  # get_help_record shows it
            shell_complete=lambda context, option, begun: complete_option(entry, begun),
            **settings,
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The flags, and the help with its default."""
        record = super().get_help_record(ctx)
        default = _describe_default(self.entry)
        if record is None or not default:
            return record
        shown = f"[default: {default}]"
        if len(shown) <= LONGEST_UNBROKEN:
            shown = shown.replace(" ", NO_BREAK)
        return record[0], f"{record[1]}  {shown}"


class TableArgument(click.Argument):
    """A click argument as an entry of the table declares it."""

    def __init__(self, entry: Argument):
        self.entry = entry
        super().__init__(
            [entry.name],
            metavar=entry.metavar,
            type=click.Path(path_type=Path) if entry.type is Path else entry.type,
            nargs=-1 if entry.repeated else 1,
            required=entry.required,
            shell_complete=lambda context, argument, begun: complete_argument(entry, begun),
        )


class TableContext(click.Context):
    """A call of a TableCommand: errors of the library that leave it speak of its options.

    Not by a block around `invoke`, which would be one more call on the way to what the command
    does.
    """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        # A model's own fields may have the name of an option. Click enters a context once more to
        # call the command, and naming what is named changes nothing.
        if isinstance(error, HermesError) and not isinstance(error, SpecError):
            found = [one for one in self.command.params if isinstance(one, TableOption)]
            options = {one.entry.name: one.entry for one in found}
            error.args = (name_options(str(error), options), *error.args[1:])
        return super().__exit__(kind, error, traceback)


class TableCommand(click.Command):
    """A command whose --help shows its arguments, and its options under headings.

    grouped: whether the options stand under the headings of their groups.
    """

    context_class = TableContext

    def __init__(self, name: str, *, grouped: bool, **settings: Any):
        super().__init__(name, **settings)
        self.grouped = grouped

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; what is wrong with it is this command's, of whom Click forgets."""
        try:
            self._check_values(args)
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def _check_values(self, args: list[str]) -> None:
        """Refuse an option whose value was forgotten: Click takes the next option for it.

        What begins like an option can still be given, by --option=--value.
        """
        takes_value = {
            flag: isinstance(one, click.Option) and not (one.is_flag or one.count)
            for one in self.params
            for flag in (*one.opts, *one.secondary_opts)
            if flag.startswith("-")
        }
        given = args[: args.index("--")] if "--" in args else args
        for flag, value in pairwise(given):
            if takes_value.get(flag) and value in takes_value:
                raise click.BadOptionUsage(flag, f"Option {flag!r} requires an argument.")

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, text, arguments and options, all descriptions in one column."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        write_sections(formatter, self._list_sections(ctx))
        self.format_epilog(ctx, formatter)

    def _list_sections(self, ctx: click.Context) -> dict[str, list[Row]]:
        """The rows of each section by its heading."""
        arguments = [p.entry for p in self.params if isinstance(p, TableArgument)]
        rows: dict[str, list[Row]] = {
            "Arguments": [(entry.metavar, entry.help) for entry in arguments]
        }
        rows |= {group: [] for group in GROUPS}
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument) or not (record := param.get_help_record(ctx)):
                continue
            if isinstance(param, TableOption):
                rows[param.entry.group if self.grouped else GROUP_OF_REST].append(record)
            else:
                rows[GROUP_OF_REST].append(strip_period(record))
        if self.grouped:
            rows["Other options"] = rows.pop(GROUP_OF_REST)
        return {heading: found for heading, found in rows.items() if found}


def declare_command(
    path: str, group: click.Group | None = None, *, text: str | None = None
) -> Callable[[Callable[..., None]], TableCommand]:
    """Make a function the command of that path, with the parameters that the table says.

    path: as it is typed after `hermes`, such as "checkpoint list". group: where it belongs, None
    for hermes itself. text: the command's help, the function's docstring if None.
    """
    entries = COMMANDS[path]

    def decorate(function: Callable[..., None]) -> TableCommand:
        help = inspect.cleandoc(text or function.__doc__ or "")
        made = TableCommand(
            path.rpartition(" ")[2],
            grouped=entries.grouped,
            callback=function,
            help=help,
            short_help=help.partition("\n")[0].rstrip("."),
            params=[
                *map(TableArgument, entries.arguments),
                *map(TableOption, get_options(path).values()),
            ],
        )
        if group is not None:
            group.add_command(made)
        return made

    return decorate


def _get_click_type(entry: Option) -> Any:
    if entry.closed_choices:
        return NamedChoice(entry.choices)
    if entry.type is Path:
        return FilePath()
    return FileName() if _is_file(entry) and not entry.is_flag else entry.type


def _is_file(entry: Option) -> bool:
    """Whether an option's value may be the name of a file or folder."""
    return entry.is_path or entry.type is Path or entry.metavar in ("FILE", "DIR")


def _describe_default(entry: Option) -> str:
    """What help says of an option that is left out; nothing where its help says it."""
    if entry.default_text:
        return entry.default_text
    match entry.default:
        case bool() as is_on:
            return ("on" if is_on else "off") if entry.negatable else ""
        case float() as number:
            return f"{number:g}"
        case None | "":
            return ""
    return str(entry.default)
