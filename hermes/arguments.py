"""Checks and converts the values that users hand over, by the types they are declared with.

NumPy's numbers are taken as Python's, since files and backends know Python's alone. Nothing is
guessed: a float is no whole number, and a string no number. Imports nothing but errors.
"""

import dataclasses
import functools
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from hermes.errors import HermesError

__all__ = [
    "SHORT_NAMES",
    "Call",
    "check_verbosity",
    "convert_arguments",
    "convert_fields",
    "convert_value",
    "keep_option_names",
    "list_argument_names",
    "name_arguments",
    "name_own_arguments",
]

# Of types of numbers, as users write them.
SHORT_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}

P = ParamSpec("P")
R = TypeVar("R")
_IN_COMMAND: ContextVar[bool] = ContextVar("in_command", default=False)

WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a string",
    Path: "a path",
    type(None): "None",
}


class _Mismatch(Exception):
    """The value is not of the type."""


def convert_value(name: str, value: object, hint: Any) -> Any:
    """The value as the type that `hint` declares. Raises HermesError, naming the argument."""
    try:
        return _convert(value, hint)
    except _Mismatch:
        raise HermesError(f"{name} must be {_describe(hint)}, got {_show(value)}") from None


def convert_arguments(
    function: Callable[..., object], values: Mapping[str, object]
) -> dict[str, Any]:
    """A call's arguments, each as `function` annotates it. Raises HermesError."""
    hints = _read_hints(function)
    return {
        name: convert_value(name, value, hints[name]) if name in hints else value
        for name, value in values.items()
    }


FLAG = re.compile(r"--(no-)?([a-z][a-z0-9-]*)( (?=[A-Z]+\b))?")
PART = re.compile(r"(?<![\w.'\"/-])([a-z]+)\.([a-z_]+)(?![\w('\".])")  # lora.rank


def name_arguments(
    message: str, values: Mapping[str, object], renamed: Mapping[str, str] | None = None
) -> str:
    """A message about a command's options, with the names of Python's arguments where it has them.

    `--keep-last` is keep_last, `--tokenizer FILE` is tokenizer=FILE and `--resume` is resume=True;
    a part of a recipe's field that is an argument has that name, lora.rank is lora_rank. renamed:
    the arguments of options that have other names.
    """

    def name(match: re.Match[str]) -> str:
        argument = match[2].replace("-", "_")
        argument = (renamed or {}).get(argument, argument)
        if argument not in values:
            return match[0]
        if match[1] or isinstance(values[argument], bool):
            return f"{argument}={not match[1]}{match[3] or ''}"
        return argument + ("=" if match[3] else "")

    def join(match: re.Match[str]) -> str:
        argument = f"{match[1]}_{match[2]}"
        return argument if argument in values else match[0]

    return PART.sub(join, FLAG.sub(name, message))


def list_argument_names(signature: inspect.Signature) -> dict[str, object]:
    """The names of a function's arguments for `name_arguments`: flags have a boolean."""
    return {
        name: False if one.annotation == bool | None else one.default
        for name, one in signature.parameters.items()
    }


def name_own_arguments(
    function: Callable[P, R], renamed: Mapping[str, str] | None = None
) -> Callable[P, R]:
    """A public function whose errors speak of its arguments, where those below speak of options.

    renamed: as in `name_arguments`.
    """
    names = list_argument_names(inspect.signature(function))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except HermesError as error:
            if not _IN_COMMAND.get():
                error.args = (name_arguments(str(error), names, renamed), *error.args[1:])
            raise

    return call


@contextmanager
def keep_option_names() -> Iterator[None]:
    """A block of a command, in which errors keep the names of its options."""
    token = _IN_COMMAND.set(True)
    try:
        yield
    finally:
        _IN_COMMAND.reset(token)


def convert_fields(instance: Any, prefix: str = "") -> None:
    """Convert the fields of a frozen dataclass in place, for its __post_init__.

    prefix: stands before a field's name in a message, as in 'optimizer.beta2'. Raises HermesError.
    """
    hints = _read_hints(type(instance))  # type: ignore[arg-type]  # classes are hashable
    for one in dataclasses.fields(instance):
        value = getattr(instance, one.name)
        converted = convert_value(prefix + one.name, value, hints[one.name])
        if converted is not value:
            object.__setattr__(instance, one.name, converted)


@cache
def _read_hints(of: Any) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(of).items() if name != "return"}


def _convert(value: Any, hint: Any) -> Any:
    if hint is Any or hint is object:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(hint))
    if origin is tuple or origin is Sequence:
        return _convert_items(value, get_args(hint)[0])
    if origin is not None:
        hint = origin
    if hint is Callable:
        if not callable(value):
            raise _Mismatch
        return value
    if hint in (bool, int, float):
        return _convert_number(value, hint)
    if hint is type(None):
        if value is not None:
            raise _Mismatch
        return value
    if hint is Path and isinstance(value, os.PathLike):
        return Path(value)
    checkable = isinstance(hint, type) and not getattr(hint, "_is_protocol", False)
    if checkable and not isinstance(value, hint):
        raise _Mismatch
    return value


def _convert_union(value: Any, hints: Sequence[Any]) -> Any:
    for hint in hints:
        try:
            return _convert(value, hint)
        except _Mismatch:
            continue
    raise _Mismatch


def _convert_items(value: Any, hint: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _Mismatch
    return tuple(_convert(item, hint) for item in value)


def _convert_number(value: Any, hint: Any) -> bool | int | float:
    """A Python number; an int stays one where a float is declared, as files then say it."""
    kind = type(value)
    # NumPy's bool_ is neither of Python's numeric classes, and known by its name.
    if kind is bool or (kind.__name__ in ("bool", "bool_") and kind.__module__ == "numpy"):
        if hint is not bool:
            raise _Mismatch
        return bool(value)
    if hint is bool:
        raise _Mismatch
    if isinstance(value, Integral):
        if hint is float and abs(int(value)) > sys.float_info.max:
            raise _Mismatch
        return int(value)
    if hint is float and isinstance(value, Real):
        return float(value)
    raise _Mismatch


def _describe(hint: Any) -> str:
    """What a declared type is called in a sentence."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(_describe(one) for one in get_args(hint)))
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if origin is tuple or origin is Sequence:
        return f"a list, each item {_describe(get_args(hint)[0])}"
    if origin is Mapping:
        return "a mapping"
    if hint in WORDS:
        return WORDS[hint]
    if hint is Callable or origin is Callable or getattr(origin, "__name__", "") == "Callable":
        return "a function"
    return f"of type {getattr(hint, '__name__', hint)}"


def _show(value: object) -> str:
    """The value, and its type where that says more."""
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    plain = value is None or isinstance(value, bool | int | float | str)
    return shown if plain else f"{shown} ({type(value).__name__})"


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a public function.

    values: all its arguments, converted. given: the names that the caller passed; on resume, the
    run's own values replace the rest.
    """

    values: Mapping[str, Any]
    given: frozenset[str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def has_given(self, name: str) -> bool:
        """Whether the caller passed the argument."""
        return name in self.given


def check_verbosity(verbose: bool, quiet: bool) -> None:
    """Refuse both together. Raises HermesError."""
    if verbose and quiet:
        raise HermesError("--verbose and --quiet are both given; keep one")
