"""Values of options from YAML files, and their precedence: command line, file, default.

Every scalar of a file stays text until the option's own type converts it. `1e-4` is then a number,
which YAML 1.1 takes for text, and `no` is whatever its option takes it for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import DataError, HermesError
from hermes.options.synonyms import suggest_option

if TYPE_CHECKING:
    from hermes.storage.strict_yaml import Text  # and so YAML, for a file alone

__all__ = [
    "COMMAND_LINE",
    "OptionFile",
    "get_click_options",
    "merge_values",
    "read_value",
    "shorten_quoted",
]

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class OptionFile:
    """Values by option name, and the name of the file they are from.

    processes: how many processes its batch_size and grad_accum are for, where it says so.
    """

    source: str
    values: "Mapping[str, Text]"
    processes: int | None = None


def get_click_options(command: click.Command) -> dict[str, click.Option]:
    """A command's options by name: '--batch-size' is batch_size."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    return {_get_name(option): option for option in options}


def _get_name(option: click.Option) -> str:
    return option.opts[0].lstrip("-").replace("-", "_")


def merge_values(
    context: click.Context, files: list[OptionFile]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Every option's value and its source: the command line, else the last file that has it.

    Raises HermesError for a key that is no option of the command, and for a value that the option
    cannot have.
    """
    options = get_click_options(context.command)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, option in options.items():
        assert option.name is not None, "click names every option"
        source = context.get_parameter_source(option.name)
        is_typed = source is click.core.ParameterSource.COMMANDLINE
        values[name] = context.params[option.name]
        sources[name] = COMMAND_LINE if is_typed else "default"
    for file in files:
        for key, text in file.values.items():
            name = key.replace("-", "_")
            if name not in options:
                hint = suggest_option(name, options)
                raise HermesError(f"{file.source}: unknown key {key!r}{hint}")
            if text is None:  # null in YAML is the same as leaving the option out
                continue
            found = _convert(context, options[name], text, file.source)
            if sources[name] != COMMAND_LINE:
                values[name], sources[name] = found, file.source
    return values, sources


def _get_scalar_type(option: click.Option) -> "click.ParamType[Any]":
    """The type of one of an option's values."""
    return option.type.types[0] if isinstance(option.type, click.Tuple) else option.type


def read_value(context: click.Context, file: OptionFile, name: str) -> Any:
    """An option's value in a file, None if the file does not have it. Raises HermesError."""
    text = file.values.get(name)
    options = get_click_options(context.command)
    return None if text is None else _convert(context, options[name], text, file.source)


def _spell_mapping(name: str, values: "Mapping[str, Text]", source: str) -> "list[Text]":
    """The values of an option that is given several times, from a mapping. Raises HermesError."""
    if name != "data":
        return [f"{key}={value}" for key, value in values.items()]
    from hermes.data.mixture_sources import spell_mixture

    try:
        return [*spell_mixture(values)]
    except DataError as error:
        raise HermesError(f"{source}: {error}") from None


def _convert(context: click.Context, option: click.Option, text: "Text", source: str) -> object:
    """A value of a file, converted by the option's own type. Raises HermesError."""
    if option.nargs > 1:
        return _convert_tuples(context, option, text, source)
    items = text if option.multiple and isinstance(text, list) else [text]
    name = _get_name(option)
    if option.multiple and isinstance(text, dict):
        items = _spell_mapping(name, text, source)
    for item in items:
        if not isinstance(item, str):
            raise HermesError(f"{source}: {name} takes a value, not a list or a mapping")
    converted = _convert_items(context, option, items, source)
    return tuple(converted) if option.multiple else converted[0]


def _convert_tuples(
    context: click.Context, option: click.Option, text: "Text", source: str
) -> tuple[tuple[object, ...], ...]:
    """A list of lists, each of as many values as the option takes. Raises HermesError."""
    found = []
    for item in text if isinstance(text, list) else [text]:
        values = item if isinstance(item, list) else []
        if len(values) != option.nargs or not all(isinstance(one, str) for one in values):
            raise HermesError(
                f"{source}: {_get_name(option)} takes a list of lists of {option.nargs} values, as "
                f"in [[{', '.join('AB'[: option.nargs])}]]"
            )
        found.append(tuple(_convert_items(context, option, values, source)))
    return tuple(found)


def shorten_quoted(message: str) -> str:
    """Cut what a message quotes of a user's value where it has more than 200 characters."""
    return re.sub(r"'([^']{40})[^']{160,}'", r"'\1...'", message)


def _convert_items(
    context: click.Context, option: click.Option, items: "Sequence[Text]", source: str
) -> list[object]:
    name = _get_name(option)
    try:
        return [_get_scalar_type(option).convert(item, option, context) for item in items]
    except click.BadParameter as error:
        reason = shorten_quoted(error.message.rstrip("."))
        raise HermesError(f"{source}: {name}: {reason[:1].lower()}{reason[1:]}") from None
