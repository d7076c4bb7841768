"""Changes of single fields, as in `--set model.block.attention.num_heads=4`.

The spec is written as a tree that includes defaults, fields are replaced in it, and the tree is
read again. So an edit means exactly what the same change of a file would mean, and a change of a
named part applies wherever the part is used.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hermes.errors import MalError, SpecError
from hermes.mal.meaning import read_tree
from hermes.mal.syntax import parse_value
from hermes.mal.tokens import Source
from hermes.mal.tree import Body, Definition, Field, List, Tree, Value, Word, quote
from hermes.mal.words import DEFINED, SYNONYMS, WORDS, describe_unknown_key, list_keys
from hermes.mal.writer import write_tree
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["edit", "edit_all"]


def edit(spec: ModelSpec, path: str, value: str) -> ModelSpec:
    """Change one field of a model: edit(spec, "block.attention.num_heads", "4").

    path: keys joined by dots; `block` means every block of a pattern, `block.NAME` the one of that
    name. value: MAL text, as after the colon in a file. Raises SpecError.
    """
    return edit_all(spec, {path: value})


def edit_all(spec: ModelSpec, changes: Mapping[str, str]) -> ModelSpec:
    """Change several fields of a model at once; only the result has to be valid."""
    tree = write_tree(spec, with_defaults=True)
    for path, text in changes.items():
        *_, key = path.split(".")
        try:
            value = parse_value(Source.from_data(text), key)
        except MalError as error:
            raise SpecError(f"{path}={quote(text)}: {error.sentence}") from error
        tree = _Editor(tree, path, value).apply()
    try:
        (model,) = read_tree(Source(""), tree, unused_allowed=True).values()
    except MalError as error:
        edits = ", ".join(f"{path}={quote(text)}" for path, text in changes.items())
        raise SpecError(f"{edits}: {error.sentence}") from error
    return model


class _Editor:
    """Replaces the value that a path leads to, in the model or in a definition named on the way."""

    def __init__(self, tree: Tree, path: str, value: Value):
        self.definitions = {(d.kind, d.name): d for d in tree.definitions}
        self.path = path
        self.new = value

    def apply(self) -> Tree:
        """Return the edited tree."""
        *_, model = self.definitions
        self.edit_definition(model, self.path.split("."))
        return Tree(tuple(self.definitions.values()))

    def edit_definition(self, name: tuple[str, str], steps: list[str]) -> None:
        """Edit the definition with this kind and name."""
        old: Definition = self.definitions[name]
        body = self.edit_body(DEFINED[old.kind], old.body, steps)
        self.definitions[name] = replace(old, body=body)

    def edit_body(self, kind: Any, body: Body, steps: list[str]) -> Body:
        """Change the field of a body that `steps` leads to; kind: the dataclass of the body."""
        word, *rest = steps
        key = word if word in list_keys(kind) else SYNONYMS.get(word, word)
        if key not in list_keys(kind):
            raise SpecError(f"{self.path}: {describe_unknown_key(kind, word)}")
        # block and pattern are two forms of one field, so setting one replaces the other.
        same = ("block", "pattern") if kind is ModelSpec and key in ("block", "pattern") else (key,)
        old = next((field for field in body.fields if field.key in same), None)
        if not rest:
            changed = Field(key, self.new)
        elif old is None or self.is_absent(old):
            raise SpecError(
                f"{self.path}: this {WORDS[kind]} has no {key}, whose {'.'.join(rest)} could "
                f"change; set {key} as a whole"
            )
        else:
            changed = Field(
                old.key, self.edit_value(old.key, list_keys(kind)[old.key], old.value, rest)
            )
        kept = [changed if field is old else field for field in body.fields]
        return Body((*kept, changed) if old is None else tuple(kept))

    def is_absent(self, field: Field) -> bool:
        """Whether a field says `none` of a part, and no definition has that name."""
        is_none = field.key in DEFINED and field.value == Word("none")
        return is_none and (field.key, "none") not in self.definitions

    def edit_value(
        self, key: str, types: tuple[type, ...], value: Value, steps: list[str]
    ) -> Value:
        """Change something inside the value of a field."""
        kinds = {WORDS[kind]: kind for kind in types if kind in WORDS}
        only = next(iter(kinds), "block" if key == "pattern" else "")
        if only == "block" and steps[0] not in list_keys(BlockSpec) and len(steps) > 1:
            name, *steps = steps
            self.require_block(name, value)
            self.edit_definition(("block", name), steps)
            return value
        match value:
            case List(values):
                return List(tuple(self.edit_value("block", (BlockSpec,), v, steps) for v in values))
            case Word(name, None) if only in DEFINED:
                self.edit_definition((only, name), steps)
                return value
            case Word(name, inside) if name in kinds:
                return Word(name, self.edit_body(kinds[name], inside or Body(()), steps))
            case Body() if only:
                return self.edit_body(kinds[only], value, steps)
        raise SpecError(f"{self.path}: {key} has no keys of its own, so no {steps[0]!r}")

    def require_block(self, name: str, value: Value) -> None:
        """Refuse a step that is neither a key of blocks nor the name of one in the model."""
        values = value.values if isinstance(value, List) else (value,)
        names = [word.name for word in values if isinstance(word, Word)]
        if name not in names:
            raise SpecError(
                f"{self.path}: {describe_unknown_key(BlockSpec, name)}, "
                "and the model has no such block"
            )
