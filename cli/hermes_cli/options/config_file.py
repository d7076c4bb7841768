"""Where an option's value comes from: the command line, a YAML file, or the default.

YAML is read for its shape only, so that nothing in it is guessed: every scalar stays text until
the option's own type reads it. `1e-4` is then a number and `no` is what its option takes it for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from hermes.errors import HermesError, suggest_nearest

__all__ = ["COMMAND", "Layer", "layered", "option_names", "read_yaml"]

COMMAND = "command line"
LARGEST = 1 << 20
DEEPEST = 8

Text = str | None | list["Text"] | dict[str, "Text"]


@dataclass(frozen=True)
class Layer:
    """Values by option name, and what to call the place they are from.

    processes: how many its batch options are of, where it says so.
    """

    source: str
    values: Mapping[str, Text]
    processes: int | None = None


def read_yaml(path: Path) -> dict[str, Text]:
    """A YAML file's mapping, scalars as text. Aliases, tags and repeated keys are refused."""
    data = path.read_bytes()
    if len(data) > LARGEST:
        raise HermesError(f"{path}: {len(data)} bytes; a run's options take at most {LARGEST}")
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
    value = _value(path, node)
    if not isinstance(value, dict):
        raise HermesError(f"{path}: expected options as 'key: value', found a {node.id}")
    return value


def _check_events(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise HermesError(f"{path}:{line}: aliases are not read; write the value out")
        if getattr(event, "tag", None):
            raise HermesError(f"{path}:{line}: tags are not read; remove {event.tag!r}")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise HermesError(f"{path}:{line}: nested more than {DEEPEST} deep")


def _value(path: Path, node: yaml.Node) -> Text:
    match node:
        case yaml.ScalarNode(value=value, style=style):
            null = style is None and value in ("", "~", "null")
            return None if null else str(value)
        case yaml.SequenceNode(value=items):
            return [_value(path, item) for item in items]
    found: dict[str, Text] = {}
    for key_node, value_node in node.value:
        key = _value(path, key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise HermesError(f"{path}:{line}: a key must be a word")
        if key in found:
            raise HermesError(f"{path}:{line}: key {key!r} is given twice")
        found[key] = _value(path, value_node)
    return found


def option_names(command: click.Command) -> dict[str, click.Option]:
    """A command's options by what stands behind their dashes: '--batch-size' is batch_size."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    return {option.opts[0].lstrip("-").replace("-", "_"): option for option in options}


def layered(context: click.Context, layers: list[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Every option's value and what set it: the command line, else the last layer that has it."""
    options = option_names(context.command)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, option in options.items():
        assert option.name is not None, "click names every option"
        place = context.get_parameter_source(option.name)
        given = place is click.core.ParameterSource.COMMANDLINE
        values[name], sources[name] = context.params[option.name], COMMAND if given else "default"
    for layer in layers:
        for key, text in layer.values.items():
            name = key.replace("-", "_")
            if name not in options:
                raise HermesError(
                    f"{layer.source}: unknown key {key!r}{suggest_nearest(name, options)}"
                )
            if text is None:  # as if it were left out
                continue
            found = _read(context, options[name], text, layer.source)
            if sources[name] != COMMAND:
                values[name], sources[name] = found, layer.source
    return values, sources


def value_in(context: click.Context, layer: Layer, name: str) -> Any:
    """What a layer says of an option, None for nothing."""
    text = layer.values.get(name)
    options = option_names(context.command)
    return None if text is None else _read(context, options[name], text, layer.source)


def _read(context: click.Context, option: click.Option, text: Text, source: str) -> object:
    """A layer's value through the option's own type."""
    items = text if option.multiple and isinstance(text, list) else [text]
    if option.multiple and isinstance(text, dict):
        items = [f"{key}={value}" for key, value in text.items()]
    key = option.opts[0].lstrip("-").replace("-", "_")
    for item in items:
        if not isinstance(item, str):
            raise HermesError(f"{source}: {key} takes a value, not a list or a mapping")
    try:
        read = [option.type.convert(item, option, context) for item in items]
    except click.BadParameter as error:
        reason = error.message.rstrip(".")
        raise HermesError(f"{source}: {key}: {reason[:1].lower()}{reason[1:]}") from None
    return tuple(read) if option.multiple else read[0]
