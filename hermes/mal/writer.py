"""Writes specs as MAL: spec to tree, tree to text. The inverse of `meaning.py`.

The form is canonical: one spelling of each key and number, keys in the order of the dataclasses,
defaults left out, named parts defined before they are used.
"""

from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from hermes.errors import SpecError
from hermes.mal.tree import Body, Definition, Field, List, Number, String, Tree, Value, Word
from hermes.mal.words import DEFINED, SPELLINGS, TEXTS, WORDS, list_keys
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

__all__ = ["describe", "dumps", "format_number", "write_tree"]

WIDTH = 88  # most characters of a line; longer values are split
INDENT = "  "
# The canonical form is `bias: true`, not `bias: all`; elsewhere it is the spec's own word.
WRITTEN = {word: spelling for spelling, word in SPELLINGS["bias"].items()}


def write_tree(*specs: ModelSpec, with_defaults: bool = False) -> Tree:
    """Write one or more models as a tree.

    with_defaults: write defaults too, so that every field can be edited. Raises SpecError if two
    models use one name for different parts.
    """
    return _Writer(specs, with_defaults).write_tree()


def dumps(spec: ModelSpec, *others: ModelSpec) -> str:
    """Write one or more models as canonical MAL, which `loads` reads back as equal specs."""
    definitions = write_tree(spec, *others).definitions
    return "\n".join(_format_file(definitions))


def describe(part: object) -> dict[str, str]:
    """Describe a part: each key with its value as one line of MAL, including defaults."""
    body = _Writer((), with_defaults=True).write_body(part)
    written = {field.key: _format_value(field.value) for field in body.fields}
    return {key: written.get(key, "none") for key in list_keys(part.__class__)}


class _Writer:
    """Writes the models of one file, each named part once."""

    def __init__(self, specs: tuple[ModelSpec, ...], with_defaults: bool):
        self.specs = specs
        self.with_defaults = with_defaults
        self.parts: dict[tuple[str, str], AttentionSpec | FfnSpec | BlockSpec | None] = {}
        self.definitions: dict[str, list[Definition]] = {kind: [] for kind in DEFINED}

    def write_tree(self) -> Tree:
        for spec in self.specs:
            if any(spec.name == other.name for other in self.definitions["model"]):
                raise SpecError(f"two models are both named {spec.name!r}", ("name",))
            body = self.write_body(spec)
            self.definitions["model"].append(Definition("model", spec.name, body))
        return Tree(tuple(d for kind in self.definitions.values() for d in kind))

    def write_part(self, kind: str, part: AttentionSpec | FfnSpec | BlockSpec) -> Value:
        """Write a named part as its name and define it once; write an unnamed one inline."""
        if not part.name:
            return self.write_body(part)
        key = (kind, part.name)
        if key not in self.parts:
            self.parts[key] = part
            self.definitions[kind].append(Definition(kind, part.name, self.write_body(part)))
        elif self.parts[key] != part:
            raise SpecError(f"two different {kind} definitions are both named {part.name!r}")
        return Word(part.name)

    def write_absence(self, kind: str) -> Value:
        """Write `none` for a part that a block does not have, unless a part has that name."""
        if self.parts.setdefault((kind, "none"), None) is not None:
            raise SpecError(f"two different {kind} definitions are both named 'none'")
        return Word("none")

    def write_body(self, spec: object) -> Body:
        defaults = {f.name: f.default for f in fields(spec)}  # type: ignore[arg-type]
        written: list[Field] = []
        for key, types in list_keys(spec.__class__).items():
            if isinstance(spec, ModelSpec) and key in ("block", "pattern"):
                written += self.write_blocks(key, spec.blocks)
                continue
            value, default = getattr(spec, key), defaults.get(key, MISSING)
            is_default = value == default or (default is None and _can_leave_out(spec, key))
            if value is None and default is not None:
                written.append(Field(key, self.write_absence(key)))
            elif value is not None and (not is_default or self.with_defaults):
                written.append(Field(key, self.write_value(key, types, value)))
        return Body(tuple(written))

    def write_blocks(self, key: str, blocks: tuple[BlockSpec, ...]) -> list[Field]:
        if key == "block" and len(blocks) == 1:
            return [Field("block", self.write_part("block", blocks[0]))]
        if key == "pattern" and len(blocks) > 1:
            values = tuple(self.write_part("block", block) for block in blocks)
            return [Field("pattern", List(values))]
        return []

    def write_value(self, key: str, types: tuple[type, ...], value: object) -> Value:
        match value:
            case bool():
                return Word("true" if value else "false")
            case int():
                return Number(str(value))
            case float():
                return Number(format_number(value))
            case str():
                if key in TEXTS:
                    return String(value)
                return Word(WRITTEN.get(value, value) if key == "bias" else value)
            case tuple():
                return List(tuple(Number(format_number(number)) for number in value))
            case AttentionSpec() | FfnSpec() | BlockSpec():
                return self.write_part(WORDS[value.__class__], value)
        body = self.write_body(value)
        if len(types) == 1 or str in types:
            return body
        return Word(WORDS[value.__class__], body if body.fields else None)


def _can_leave_out(spec: Any, key: str) -> bool:
    """Whether a spec without this key would be the same, as the key follows from others."""
    try:
        return bool(replace(spec, **{key: None}) == spec)
    except SpecError:
        return False


def format_number(value: float) -> str:
    """Format a number as the shortest text that reads back as equal: 10000, 0.1, 1e-5."""
    digits, _, exponent = repr(value).removesuffix(".0").partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits


def _format_file(definitions: tuple[Definition, ...]) -> Iterator[str]:
    for index, definition in enumerate(definitions):
        if index:
            yield ""
        head = f"{definition.kind} {definition.name}"
        if definition.body.fields:
            yield from _format_body(head, definition.body, "")
        else:
            yield f"{head} {{ }}"
    yield ""


def _format_body(head: str, body: Body, indent: str) -> Iterator[str]:
    """Format `head { ... }` with a line for each field, and several lines for a long one."""
    yield f"{indent}{head} {{"
    inner = indent + INDENT
    for field in body.fields:
        line = inner + _format_field(field)
        if len(line) <= WIDTH:
            yield line
            continue
        match field.value:
            case Body() as value:
                yield from _format_body(field.key, value, inner)
            case Word(name, Body() as value):
                yield from _format_body(f"{field.key}: {name}", value, inner)
            case List(values):
                yield from _format_list(field.key, values, inner)
            case _:
                yield line
    yield f"{indent}}}"


def _format_list(key: str, values: tuple[Value, ...], indent: str) -> Iterator[str]:
    """Format a list over several lines, as many values on each as fit."""
    yield f"{indent}{key}: ["
    inner = indent + INDENT
    line = ""
    for value in values:
        item = f"{_format_value(value)},"
        if line and len(inner) + len(line) + 1 + len(item) > WIDTH:
            yield inner + line
            line = ""
        line = f"{line} {item}" if line else item
    yield inner + line
    yield f"{indent}]"


def _format_field(field: Field) -> str:
    colon = "" if isinstance(field.value, Body) else ":"
    return f"{field.key}{colon} {_format_value(field.value)}"


def _format_value(value: Value) -> str:
    """Format a value on one line."""
    match value:
        case Number(text):
            return text
        case String(text):
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'
        case Word(name, body):
            return f"{name} {_format_value(body)}" if body else name
        case List(values):
            return f"[{', '.join(map(_format_value, values))}]"
        case Body(fields):
            return f"{{ {'  '.join(map(_format_field, fields))} }}" if fields else "{ }"
