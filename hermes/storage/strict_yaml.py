"""Reads YAML within bounds: the one reader of every YAML file, of the user or downloaded.

Aliases, tags, repeated keys, deep nesting and large files are refused before anything is made of
them, so that no file can run code, expand without end or mean two things.
"""

import re
from pathlib import Path

import yaml

from hermes.errors import HermesError
from hermes.storage.reading import read_small

__all__ = ["Text", "Value", "read_key_lines", "read_text_mapping", "read_value_mapping"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 8
MAX_DIGITS = 20  # of a seed of 64 bits

Text = str | None | list["Text"] | dict[str, "Text"]
Scalar = str | int | float | bool | None
Value = Scalar | list["Value"] | dict[str, "Value"]

NULLS = ("", "~", "null")
# A number that begins with 0 is octal for some readers and decimal for others: it stays text.
INTEGER = re.compile(rf"[-+]?(0|[1-9]\d{{0,{MAX_DIGITS - 1}}})")
NUMBER = re.compile(r"[-+]?((0|[1-9]\d{0,29})(\.\d{0,30})?|\.\d{1,30})([eE][-+]?\d{1,4})?")


def read_text_mapping(path: Path) -> dict[str, Text]:
    """Read a YAML file's mapping, its scalars as text; {} for an empty file. Raises HermesError.

    Nothing is guessed: `1e-4`, `no` and `010` are what their reader takes them for.
    """
    found = _read(path)
    if found is None:
        return {}
    value = _read_node(path, found)
    if not isinstance(value, dict):
        kind = "scalar" if isinstance(found, yaml.ScalarNode) else "sequence"
        raise HermesError(f"{path}: expected options as 'key: value', found a {kind}")
    return value


def read_key_lines(path: Path) -> dict[str, int]:
    """Find the line of each key of a YAML file's mapping, from 1. Raises HermesError."""
    found = _read(path)
    pairs = found.value if isinstance(found, yaml.MappingNode) else ()
    return {str(key.value): key.start_mark.line + 1 for key, _ in pairs}


def read_value_mapping(path: Path) -> dict[str, Value]:
    """Read a YAML file's mapping, its plain scalars as null, true, false, numbers or text.

    Raises HermesError, also for an empty file, and StorageError.
    """
    found = _read(path)
    value = None if found is None else _convert(path, found)
    if not isinstance(value, dict):
        what = "it is empty" if found is None else "it holds something else"
        raise HermesError(f"{path}: expected a mapping of 'key: value', but {what}")
    return value


def _read(path: Path) -> yaml.Node | None:
    data = read_small(path)
    if len(data) > MAX_BYTES:
        raise HermesError(
            f"{path}: {len(data):,} bytes; a file of options has at most {MAX_BYTES:,}"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HermesError(f"{path}: not UTF-8 at byte {error.start}") from None
    try:
        _check_events(path, text)
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        return node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise HermesError(f"{path}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise HermesError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None


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
            return None if style is None and value in NULLS else str(value)
        case yaml.SequenceNode(value=items):
            return [_read_node(path, item) for item in items]
    return {key: _read_node(path, value) for key, value in _list_pairs(path, node)}


def _convert(path: Path, node: yaml.Node) -> Value:
    match node:
        case yaml.ScalarNode(value=value, style=style):
            return str(value) if style is not None else _convert_scalar(str(value))
        case yaml.SequenceNode(value=items):
            return [_convert(path, item) for item in items]
    return {key: _convert(path, value) for key, value in _list_pairs(path, node)}


def _list_pairs(path: Path, node: yaml.Node) -> list[tuple[str, yaml.Node]]:
    """The keys of a mapping with their nodes. Raises HermesError for one that is given twice."""
    found: dict[str, yaml.Node] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _read_node(path, key_node)
        if not isinstance(key, str):
            raise HermesError(f"{path}:{line}: a key must be a word")
        if key in found:
            raise HermesError(f"{path}:{line}: key {key!r} is given twice")
        found[key] = value_node
    return list(found.items())


def _convert_scalar(text: str) -> Scalar:
    if text in NULLS:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text
