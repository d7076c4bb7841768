"""Values of options from YAML files, and their precedence: command line, file, default.

Only the structure of YAML is used, so that nothing is guessed: every scalar stays text until the
option's own type converts it. `1e-4` is then a number, which YAML 1.1 takes for text, and `no` is
whatever its option takes it for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from hermes.errors import HermesError, suggest_nearest

__all__ = [
    "COMMAND_LINE",
    "OptionFile",
    "get_click_options",
    "merge_values",
    "read_value",
    "read_yaml",
]

COMMAND_LINE = "command line"
MAX_BYTES = 1 << 20
MAX_DEPTH = 8

Text = str | None | list["Text"] | dict[str, "Text"]


@dataclass(frozen=True)
class OptionFile:
    """Values by option name, and the name of the file they are from.

    processes: how many processes its batch_size and grad_accum are for, where it says so.
    """

    source: str
    values: Mapping[str, Text]
    processes: int | None = None


def read_yaml(path: Path) -> dict[str, Text]:
    """Read a YAML file's mapping, its scalars as text.

    Aliases, tags and repeated keys are refused. Raises HermesError.
    """
    data = path.read_bytes()
    if len(data) > MAX_BYTES:
        raise HermesError(f"{path}: {len(data)} bytes; a file of options has at most {MAX_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HermesError(f"{path}: not UTF-8 at byte {error.start}") from None
    try:
        _check_events(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise HermesError(f"{path}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise HermesError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    if node is None:
        return {}
    value = _read_node(path, node)
    if not isinstance(value, dict):
        kind = "scalar" if isinstance(node, yaml.ScalarNode) else "sequence"
        raise HermesError(f"{path}: expected options as 'key: value', found a {kind}")
    return value


def _check_events(path: Path, text: str) -> None:
    """Refuse aliases, tags and deep nesting, before they are expanded. Raises HermesError."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{path}:{event.start_mark.line + 1}" if event.start_mark else f"{path}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise HermesError(f"{where}: aliases are not supported; write the value out")
        if tag := getattr(event, "tag", None):
            raise HermesError(f"{where}: tags are not supported; remove {tag!r}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise HermesError(f"{where}: nested more than {MAX_DEPTH} deep")


def _read_node(path: Path, node: yaml.Node) -> Text:
    match node:
        case yaml.ScalarNode(value=value, style=style):
            is_null = style is None and value in ("", "~", "null")
            return None if is_null else str(value)
        case yaml.SequenceNode(value=items):
            return [_read_node(path, item) for item in items]
    found: dict[str, Text] = {}
    for key_node, value_node in node.value:
        key = _read_node(path, key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise HermesError(f"{path}:{line}: a key must be a word")
        if key in found:
            raise HermesError(f"{path}:{line}: key {key!r} is given twice")
        found[key] = _read_node(path, value_node)
    return found


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
                hint = suggest_nearest(name, options)
                raise HermesError(f"{file.source}: unknown key {key!r}{hint}")
            if text is None:  # null in YAML is the same as leaving the option out
                continue
            found = _convert(context, options[name], text, file.source)
            if sources[name] != COMMAND_LINE:
                values[name], sources[name] = found, file.source
    return values, sources


def read_value(context: click.Context, file: OptionFile, name: str) -> Any:
    """An option's value in a file, None if the file does not have it. Raises HermesError."""
    text = file.values.get(name)
    options = get_click_options(context.command)
    return None if text is None else _convert(context, options[name], text, file.source)


def _convert(context: click.Context, option: click.Option, text: Text, source: str) -> object:
    """A value of a file, converted by the option's own type. Raises HermesError."""
    items = text if option.multiple and isinstance(text, list) else [text]
    if option.multiple and isinstance(text, dict):
        items = [f"{key}={value}" for key, value in text.items()]
    name = _get_name(option)
    for item in items:
        if not isinstance(item, str):
            raise HermesError(f"{source}: {name} takes a value, not a list or a mapping")
    try:
        converted = [option.type.convert(item, option, context) for item in items]
    except click.BadParameter as error:
        reason = error.message.rstrip(".")
        raise HermesError(f"{source}: {name}: {reason[:1].lower()}{reason[1:]}") from None
    return tuple(converted) if option.multiple else converted[0]
