"""Validation shared by the dataclasses of a spec: types as annotated, and ranges."""

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
# Control characters and lone surrogates, which have no place in a text file.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_WANTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@cache
def list_field_types(cls: Any) -> Mapping[str, tuple[type, ...]]:
    """List the types that each field of a dataclass may have, from its annotations."""
    hints = get_type_hints(cls)
    return {
        field.name: get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
        for field in dataclasses.fields(cls)
        for hint in [hints[field.name]]
    }


def check_types(spec: Any) -> None:
    """Refuse values that the annotations do not allow; store integers of float fields as floats."""
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
    """Show a value by repr, cut to 60 characters or fewer."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:40]}..."


def check_size(spec: object, name: str) -> None:
    """Refuse a size outside 1 .. MAX_SIZE; None is allowed."""
    value = getattr(spec, name)
    if value is not None and not 1 <= value <= MAX_SIZE:
        raise SpecError(f"{name} must be from 1 to {MAX_SIZE}, got {shorten_repr(value)}", (name,))


def check_positive(spec: object, name: str) -> None:
    """Refuse a number that is not above 0; None is allowed."""
    value = getattr(spec, name)
    if value is not None and value <= 0:
        raise SpecError(f"{name} must be above 0, got {value!r}", (name,))


def check_factors(spec: object, name: str) -> None:
    """Refuse a list that is empty or has anything but numbers above 0; store them as floats."""
    values = getattr(spec, name)
    for value in values:
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise SpecError(
                f"{name} must have finite numbers above 0, got {shorten_repr(value)}", (name,)
            )
    if not values:
        raise SpecError(f"{name} must have at least one number", (name,))
    object.__setattr__(spec, name, tuple(float(value) for value in values))


def check_rate(spec: object, name: str = "dropout") -> None:
    """Refuse a dropout rate outside [0, 1)."""
    value = getattr(spec, name)
    if not 0 <= value < 1:
        raise SpecError(f"{name} must be at least 0 and below 1, got {value!r}", (name,))


def check_choice(spec: object, name: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of `choices`."""
    value = getattr(spec, name)
    if value not in choices:
        known, hint = ", ".join(choices), suggest_nearest(value, choices)
        raise SpecError(
            f"{name} is {shorten_repr(value)}; it must be one of {known}{hint}", (name,)
        )
