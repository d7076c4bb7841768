"""Reads the tree of a MAL file into the dataclasses of `hermes.spec`.

Keys, types and defaults are those of the dataclasses; keywords that they do not have are in
`words.py`. Definitions may come in any order. The first mistake is reported, or all of them.
"""

import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import TypeVar, cast

from hermes.errors import MalError, SpecError, suggest_nearest
from hermes.mal.spec_errors import list_spec_errors
from hermes.mal.tokens import Source
from hermes.mal.tree import Body, Definition, Field, List, Number, String, Tree, Value, Word, quote
from hermes.mal.words import (
    DEFINED,
    SPELLINGS,
    SYNONYMS,
    TEXTS,
    WORDS,
    describe_unknown_key,
    join_alternatives,
    list_keys,
    list_required_keys,
)
from hermes.spec import BlockSpec, LinearScaling, ModelSpec

__all__ = ["Reader", "read_tree"]

T = TypeVar("T")


def _describe_value(value: Value) -> str:
    """Describe a value for an error: "'relu'", "a list"."""
    match value:
        case Number(text):
            return text if len(text) <= 40 else f"{text[:37]}..."
        case String(text):
            return "text"
        case Word(name, None):
            return quote(name)
        case Word(name):
            return f"{quote(name)} with a body"
        case List():
            return "a list"
        case Body():
            return "a body"


class _Noted(MalError):
    """A part cannot be read for mistakes that were noted."""


class Reader:
    """Reads the definitions of one file, each once, in whatever order they refer to each other.

    mistakes: gets all of them; None to raise the first.
    """

    def __init__(self, source: Source, tree: Tree, mistakes: list[MalError] | None = None):
        self.source, self.tree, self.mistakes = source, tree, mistakes
        self.missed: set[str] = set()  # kinds of which a definition that is not there is named
        self.failed: set[tuple[str, str]] = set()
        self.definitions: dict[tuple[str, str], Definition] = {}
        self.specs: dict[tuple[str, str], object] = {}
        self.used: set[tuple[str, str]] = set()
        for definition in tree.definitions:
            if definition.kind not in DEFINED:
                hint = (
                    suggest_nearest(definition.kind, DEFINED) or f"; known are {', '.join(DEFINED)}"
                )
                sentence = f"unknown kind {quote(definition.kind)}{hint}"
                self.report(self.make_error(definition.at, sentence))
                continue
            key = (definition.kind, definition.name)
            if key in self.definitions:
                sentence = f"{definition.kind} {quote(definition.name)} is defined twice"
                self.report(self.make_error(definition.name_at, sentence))
                continue
            self.definitions[key] = definition

    def read_all(self, *, unused_allowed: bool = False) -> dict[str, ModelSpec]:
        """Read the models of the file by name, in its order."""
        models: dict[str, ModelSpec] = {}
        for kind, name in self.definitions:
            try:
                spec = self.read_definition(kind, name)
            except MalError as error:
                self.report(error)
                continue
            if isinstance(spec, ModelSpec):
                models[name] = spec
        kinds = {definition.kind for definition in self.tree.definitions}
        if "model" not in kinds and kinds <= {*DEFINED} and not self.tree.has_gaps:
            self.report(self.make_error(0, "this file defines no model"))
            return models
        for key, definition in self.definitions.items():
            if definition.kind == "model" or key in self.used or unused_allowed:
                continue
            # One whose name is misspelt elsewhere, or stands in what cannot be read, is no mistake.
            if self.mistakes and (definition.kind in self.missed or self.is_mentioned(definition)):
                continue
            sentence = f"{definition.kind} {quote(definition.name)} is defined and never used"
            self.report(self.make_error(definition.name_at, sentence))
        return models

    def is_mentioned(self, definition: Definition) -> bool:
        """Whether its name stands anywhere else in the file."""
        words = re.findall(r"[A-Za-z_][A-Za-z0-9_-]*", self.source.text)
        names = sum(other.name == definition.name for other in self.definitions.values())
        return words.count(definition.name) > names

    def make_error(self, at: int, sentence: str) -> MalError:
        """Make the error that says `sentence` about the text at offset `at`."""
        return self.source.make_error(at, sentence)

    def report(self, error: MalError) -> None:
        """Raise an error, or note it where all mistakes are wanted."""
        if self.mistakes is None:
            raise error
        if not isinstance(error, _Noted):
            self.mistakes.append(error)

    def read_definition(self, kind: str, name: str) -> object:
        """Read a definition into its spec; cached."""
        key = (kind, name)
        if key in self.failed:
            raise _Noted("", self.source.file, 1, 1)
        if key not in self.specs:
            found = self.definitions[key]
            try:
                self.specs[key] = self.read_body(DEFINED[kind], found.body, found.name_at, name)
            except MalError:
                self.failed.add(key)
                raise
        return self.specs[key]

    def read_body(self, kind: type[T], body: Body, at: int, name: str = "") -> T:
        """Read a body into a spec; at: where missing fields are reported."""
        before = len(self.mistakes or ())
        given: dict[str, Field] = {}
        # Of keys that cannot be read, or were meant by an unknown one, nothing is known.
        unknown = {SYNONYMS.get(key, key) for key in body.skipped}
        for field in body.fields:
            key = SYNONYMS.get(field.key, field.key)
            key = key if key in list_keys(kind) else field.key
            if key not in list_keys(kind):
                sentence = describe_unknown_key(kind, field.key)
                self.report(self.make_error(field.at, sentence))
                meant = re.search(r"did you mean '([\w-]+)'", sentence)
                unknown.add(SYNONYMS.get(meant[1], meant[1]) if meant else "")
                continue
            if key in given:
                other = "" if key == field.key else f" ({field.key!r} is another name of it)"
                sentence = f"{key!r} is given twice in {WORDS[kind]}{other}"
                self.report(self.make_error(field.at, sentence))
                continue
            given[key] = field
        values: dict[str, object] = {}
        failed = bool(unknown)
        for key, field in given.items():
            if key in ("block", "pattern"):
                continue
            try:
                values[key] = self.read_value(key, list_keys(kind)[key], field.value)
            except MalError as error:
                self.report(error)
                unknown.add(key)
                failed = True
        has_blocks = "block" in given or "pattern" in given
        if kind is ModelSpec and (has_blocks or not unknown & {"block", "pattern", ""}):
            try:
                values["blocks"] = self.read_blocks(given, at, name)
            except MalError as error:
                self.report(error)
                failed = True
        for key in list_required_keys(kind):
            if key not in given and not unknown & {key, ""}:
                sentence = f"{WORDS[kind]} {name or '{ ... }'} needs {key}"
                self.report(self.make_error(at, sentence))
        if name:
            values["name"] = name
        make = cast(Callable[..., T], kind)
        if self.mistakes is None:
            try:
                return make(**values)
            except SpecError as error:
                raise self.make_error(self.locate(body, at, error.path), str(error)) from error
        for refusal in list_spec_errors(make, values, unknown - {""}):
            self.report(self.make_error(self.locate(body, at, refusal.path), str(refusal)))
        if failed or len(self.mistakes) > before:
            raise _Noted("", self.source.file, 1, 1)
        return make(**values)

    def read_blocks(self, given: Mapping[str, Field], at: int, name: str) -> tuple[BlockSpec, ...]:
        """Read the blocks of a model from `block` or `pattern`."""
        block = given["block"].value if "block" in given else None
        if "pattern" not in given:
            if block is None:
                raise self.make_error(at, f"model {name} needs block or pattern")
            return (self.read_part("block", BlockSpec, block),)
        pattern = given["pattern"].value
        if not isinstance(pattern, List):
            sentence = (
                f"pattern takes a list of blocks, as in [a, a, b], got {_describe_value(pattern)}"
            )
            raise self.make_error(pattern.at, sentence)
        # Older files name a default block besides the pattern: harmless if the pattern contains it.
        words = [value.name for value in pattern.values if isinstance(value, Word)]
        if block is not None and not (isinstance(block, Word) and block.name in words):
            raise self.make_error(
                given["block"].at, "block and pattern are both given; pattern says it all"
            )
        blocks: list[BlockSpec] = []
        for value in pattern.values:
            try:
                blocks.append(self.read_part("block", BlockSpec, value))
            except MalError as error:
                self.report(error)
        if len(blocks) < len(pattern.values):
            raise _Noted("", self.source.file, 1, 1)
        return tuple(blocks)

    def read_part(self, key: str, kind: type[T], value: Value) -> T:
        """Read an attention, ffn or block: the name of a definition, or an inline body."""
        if isinstance(value, Body):
            return self.read_body(kind, value, value.at)
        if not isinstance(value, Word) or value.body is not None:
            sentence = f"{key} takes the name of one or {{ ... }}, got {_describe_value(value)}"
            raise self.make_error(value.at, sentence)
        name = value.name
        if (key, name) not in self.definitions:
            self.missed.add(key)
            if self.tree.has_gaps:  # it may be what cannot be parsed
                raise _Noted("", self.source.file, 1, 1)
            raise self.make_error(
                value.at, f"{key} {quote(name)} is not defined{self.suggest_name(key, name)}"
            )
        self.used.add((key, name))
        return cast(T, self.read_definition(key, name))

    def suggest_name(self, kind: str, name: str) -> str:
        """Suggest what an undefined name may have meant."""
        known = [other for word, other in self.definitions if word == kind]
        same = [word for word, other in self.definitions if other == name]
        if same:
            return f"; {quote(name)} is the name of a definition of kind {same[0]}"
        few = f"; defined are {', '.join(known[:8])}" if known else ""
        return suggest_nearest(name, known) or few

    def read_value(self, key: str, types: tuple[type, ...], value: Value) -> object:
        """Read the value of a field by the types of its dataclass field."""
        bare = value.name if isinstance(value, Word) and value.body is None else None
        kinds = {WORDS[kind]: kind for kind in types if kind in WORDS}
        # A file may call a definition `none`: no name is reserved.
        is_named = bare is not None and any((kind, bare) in self.definitions for kind in kinds)
        if bare == "none" and NoneType in types and "none" not in kinds and not is_named:
            return None
        if kinds and (bare is None or str not in types):
            return self.read_kind(key, kinds, value, word=str in types)
        match value:
            case Number(text) if int in types:
                return self.read_integer(key, text, value.at)
            case Number(text) if float in types:
                return float(text)
            case Word() if bool in types and bare in ("true", "false"):
                return bare == "true"
            case Word() if str in types and key not in TEXTS and bare is not None:
                return SPELLINGS.get(key, {}).get(bare, bare)
            case String(text) if str in types and key in TEXTS:
                return text
            case List(values) if tuple in types:
                return tuple(self.read_value(key, (float,), number) for number in values)
        wanted = {
            int: "an integer",
            float: "a number",
            bool: "true or false",
            str: "a word",
            tuple: "a list of numbers",
        }
        what = "text in double quotes" if key in TEXTS else wanted[types[0]]
        none = " or none" if NoneType in types else ""
        raise self.make_error(value.at, f"{key} takes {what}{none}, got {_describe_value(value)}")

    def read_integer(self, key: str, text: str, at: int) -> int:
        """Read an integer; of 4.0 or 1e3, suggest the integer."""
        if re.fullmatch(r"-?[0-9]+", text):
            return int(text)
        number = float(text)
        hint = f"; write {int(number)}" if abs(number) < 2**31 and number.is_integer() else ""
        raise self.make_error(at, f"{key} takes an integer, got {text}{hint}")

    def read_kind(
        self, key: str, kinds: Mapping[str, type], value: Value, *, word: bool = False
    ) -> object:
        """Read a value that is a spec: of the kind whose word it names, or of the only kind.

        word: whether a word alone was possible too, for errors.
        """
        only = next(iter(kinds))
        if only in DEFINED:
            return self.read_part(only, kinds[only], value)
        if len(kinds) == 1:
            if isinstance(value, Body):
                return self.read_body(kinds[only], value, value.at)
            forms = "a word or { ... }" if word else "{ ... }"
            raise self.make_error(value.at, f"{key} takes {forms}, got {_describe_value(value)}")
        if isinstance(value, Word) and value.name in kinds:
            body = value.body or Body((), value.at)
            return self.read_body(kinds[value.name], body, value.at)
        if isinstance(value, Number) and LinearScaling in kinds.values():
            # Older files write rope_scaling as a bare number, the factor of linear scaling.
            factor = Field("factor", value, value.at)
            return self.read_body(LinearScaling, Body((factor,), value.at), value.at)
        words = join_alternatives(kinds)
        if isinstance(value, Word):
            sentence = (
                f"{key} takes {words}, got {quote(value.name)}{suggest_nearest(value.name, kinds)}"
            )
        else:
            sentence = (
                f"{key} takes {words}, got {_describe_value(value)}; write {key}: {only} {{ ... }}"
            )
        raise self.make_error(value.at, sentence)

    def locate(self, body: Body, at: int, path: tuple[str | int, ...]) -> int:
        """Locate the field that `path` leads to, or the last one on the way that is in the file."""
        node: Value = body
        key = ""
        for step in path:
            if isinstance(step, int):
                node = node.values[step] if isinstance(node, List) else node
                at = node.at
                continue
            inside = self.find_body(node, key)
            wanted = ("block", "pattern") if step == "blocks" else (step,)
            found = [f for f in inside.fields if SYNONYMS.get(f.key, f.key) in wanted]
            if not found:
                break
            node = found[-1].value
            at = node.at
            key = "block" if step == "blocks" else step
        return at

    def find_body(self, node: Value, key: str) -> Body:
        """Find the fields of a value: in its braces, or in the definition that it names."""
        if isinstance(node, Body):
            return node
        if isinstance(node, Word):
            named = self.definitions.get((key, node.name))
            return node.body or (named.body if named else Body((), node.at))
        return Body((), node.at)


def read_tree(source: Source, tree: Tree, *, unused_allowed: bool = False) -> dict[str, ModelSpec]:
    """Read the models of a file by name, in its order. Raises MalError at the first mistake.

    unused_allowed: whether a definition may be unused, which in a file is a likely typo.
    """
    return Reader(source, tree).read_all(unused_allowed=unused_allowed)
