"""What every dataclass of a spec is held to: the types of its annotations, and ranges."""

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hermes.errors import SpecError, suggest_nearest

MAX_SIZE = 2**31 - 1

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
# Control characters and halves of surrogate pairs, which no file of text should carry.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_WANTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@cache
def list_field_types(cls: Any) -> Mapping[str, tuple[type, ...]]:
    """The types that each field of a spec may have, as its annotations say."""
    hints = get_type_hints(cls)
    return {
        field.name: get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
        for field in dataclasses.fields(cls)
        for hint in [hints[field.name]]
    }


def check_types(spec: Any) -> None:
    """Refuse what the annotations do not allow; keep numbers as floats, so that 1 is 1.0."""
    for name, types in list_field_types(spec.__class__).items():
        value = getattr(spec, name)
        if float in types and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
            if not math.isfinite(value):
                raise SpecError(f"{name} must be finite, got {value!r}", (name,))
            object.__setattr__(spec, name, value)
        elif type(value) not in types:
            wanted = " or ".join(_WANTED.get(t, t.__name__) for t in types if t is not NoneType)
            raise SpecError(f"{name} must be {wanted}, got {shorten_repr(value)}", (name,))
        elif isinstance(value, str) and (found := _UNPRINTABLE.search(value)):
            raise SpecError(f"{name} has the control character {found[0]!r} in it", (name,))
    label = getattr(spec, "name", "")
    if label and not _NAME.fullmatch(label):
        raise SpecError(
            f"name is {shorten_repr(label)}; it must be a letter or _, then letters, digits, "
            "_ or -, 100 at most",
            ("name",),
        )


def shorten_repr(value: object) -> str:
    """A value by repr, cut where it would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:40]}..."


def check_size(spec: object, name: str) -> None:
    """A whole number from 1 to MAX_SIZE, or nothing."""
    value = getattr(spec, name)
    if value is not None and not 1 <= value <= MAX_SIZE:
        raise SpecError(f"{name} must be from 1 to {MAX_SIZE}, got {shorten_repr(value)}", (name,))


def check_positive(spec: object, name: str) -> None:
    """Above 0, or nothing."""
    value = getattr(spec, name)
    if value is not None and value <= 0:
        raise SpecError(f"{name} must be above 0, got {value!r}", (name,))


def check_rate(spec: object, name: str = "dropout") -> None:
    """At least 0 and below 1."""
    value = getattr(spec, name)
    if not 0 <= value < 1:
        raise SpecError(f"{name} must be at least 0 and below 1, got {value!r}", (name,))


def check_choice(spec: object, name: str, choices: tuple[str, ...]) -> None:
    """One of the words known."""
    value = getattr(spec, name)
    if value not in choices:
        known, hint = ", ".join(choices), suggest_nearest(value, choices)
        raise SpecError(
            f"{name} is {shorten_repr(value)}; it must be one of {known}{hint}", (name,)
        )
