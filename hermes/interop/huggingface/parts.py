"""The parts of a family: each reads a field of config.json into a specification, and writes it.

A part's `read` takes its fields and sets values of a draft; its `write` gives the same fields for a
specification. What a class has no field for is an `Always`. `Unfit` is raised where a class cannot
express a value; most such cases need no check, because a family fits a specification only if what
it writes reads back as the same function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hermes.errors import SpecError
from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.fields import Fields
from hermes.spec import MAX_LAYERS

__all__ = [
    "Always",
    "Biases",
    "Choice",
    "Computed",
    "Config",
    "Layers",
    "Number",
    "Only",
    "Part",
    "Rate",
    "Size",
    "Unfit",
    "Unread",
]

Config = dict[str, Any]


class Unfit(SpecError):
    """A value that a family's class cannot express."""


class Part(Protocol):
    """One part of a family. field names: aliases are joined by `|`; the first is written."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Take the fields and set what they mean. Raises SpecError."""

    def write(self, view: View) -> Config:
        """Make the fields. Raises Unfit."""
        ...


@dataclass(frozen=True)
class Size:
    """A whole number. default: of the class; None where a file must have it."""

    name: str
    path: str
    default: int | Callable[[Draft], int] | None = None

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it into its path."""
        default = self.default(draft) if callable(self.default) else self.default
        draft[self.path] = fields.take_size(self.name, default)

    def write(self, view: View) -> Config:
        """Write it under its first name."""
        return {self.name.split("|")[0]: view[self.path]}


@dataclass(frozen=True)
class Layers:
    """The number of layers, which is bounded."""

    name: str = "num_hidden_layers"
    default: int | None = None

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it; more than MAL allows are refused."""
        layers = draft["num_layers"] = fields.take_size(self.name, self.default)
        if layers > MAX_LAYERS:
            fields.refuse(self.name, layers)

    def write(self, view: View) -> Config:
        """Write it."""
        return {self.name.split("|")[0]: view.spec.num_layers}


@dataclass(frozen=True)
class Number:
    """A number that is a value of MAL. default: of the class; usual: the number that MAL omits.

    inverse: whether MAL has one over it.
    """

    name: str
    path: str
    default: float | None = None
    usual: float | None = None
    inverse: bool = False

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it; a null is no value, a missing field the class's default."""
        value = fields.take_number(self.name) if self.name in fields else self.default
        if value is None or value == self.usual:
            draft[self.path] = None
        elif self.inverse and value == 0:
            fields.refuse(self.name, value)
        else:
            draft[self.path] = 1 / value if self.inverse else value

    def write(self, view: View) -> Config:
        """Write it."""
        value = view[self.path]
        number = value if value is None or not self.inverse else 1 / value
        return {self.name.split("|")[0]: self.usual if number is None else float(number)}


@dataclass(frozen=True)
class Choice:
    """A flag that chooses one of two values of MAL, such as of `bias`."""

    name: str
    path: str
    default: bool
    false: Any = False
    true: Any = True

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the flag."""
        draft[self.path] = self.true if fields.take_flag(self.name, self.default) else self.false

    def write(self, view: View) -> Config:
        """Write the flag, where the value is one of the two."""
        value = view[self.path]
        if value not in (self.true, self.false):
            raise Unfit(f"{self.path} is {value!r}")
        return {self.name.split("|")[0]: value == self.true}


@dataclass(frozen=True)
class Computed:
    """A value that follows from others, which must have been read."""

    path: str
    compute: Callable[[Draft], Any]

    def read(self, fields: Fields, draft: Draft) -> None:
        """Set it."""
        draft[self.path] = self.compute(draft)

    def write(self, view: View) -> Config:
        """Write nothing."""
        return {}


@dataclass(frozen=True)
class Biases:
    """A flag of the biases of all projections of attention and of the feed-forward network."""

    name: str
    default: bool

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read the flag."""
        given = fields.take_flag(self.name, self.default)
        draft["attention.bias"], draft["ffn.bias"] = "all" if given else "none", given

    def write(self, view: View) -> Config:
        """Write the flag."""
        return {self.name: view.block.ffn.bias}


@dataclass(frozen=True)
class Always:
    """A value of MAL that the class always has, without a field for it."""

    path: str
    value: Any

    def read(self, fields: Fields, draft: Draft) -> None:
        """Set it."""
        draft[self.path] = self.value

    def write(self, view: View) -> Config:
        """Write nothing."""
        if view[self.path] != self.value:
            raise Unfit(f"{self.path} is {view[self.path]!r}")
        return {}


@dataclass(frozen=True)
class Only:
    """A field that must have one of a few values, which all mean the same to MAL.

    written: whether other tools need to see it.
    """

    name: str
    allowed: tuple[Any, ...] = (False,)
    written: bool = True

    def read(self, fields: Fields, draft: Draft) -> None:
        """Refuse any other value."""
        fields.allow_only(self.name, *self.allowed)

    def write(self, view: View) -> Config:
        """Write the usual value."""
        return {self.name.split("|")[0]: self.allowed[0]} if self.written else {}


@dataclass(frozen=True)
class Unread:
    """Fields, apart by spaces, that the class has or files carry, and that it does not use.

    written: a value to write under the first, for tools that do use it.
    """

    names: str
    written: Any = None

    def read(self, fields: Fields, draft: Draft) -> None:
        """Take them without a look."""
        for name in self.names.split():
            fields.take(name)

    def write(self, view: View) -> Config:
        """Write the first, where it has a value for it."""
        return {} if self.written is None else {self.names.split()[0]: self.written}


@dataclass(frozen=True)
class Rate:
    """A dropout rate, the same in all layers. default: of the class."""

    name: str
    paths: tuple[str, ...]
    default: float = 0.0

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it into all its paths."""
        value = fields.take_number(self.name)
        for path in self.paths:
            draft[path] = self.default if value is None else value

    def write(self, view: View) -> Config:
        """Write it; 0 where layers differ."""
        return {self.name.split("|")[0]: view.find_rate(self.paths[0])}
