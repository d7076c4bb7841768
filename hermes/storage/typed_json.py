"""Values of JSON as dataclasses: each field of the type that it is annotated with, or refused."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from hermes.errors import CheckpointError
from hermes.storage.strict_json import Json

__all__ = ["build_typed"]


def build_typed(wanted: Any, value: Json, where: str) -> Any:
    """Convert JSON to a type, a dataclass mostly; of others only int to float and list to tuple.

    A missing key takes its default, an unknown one is refused. Raises CheckpointError, its message
    beginning with `where`, and what a dataclass raises of its own.
    """
    if dataclasses.is_dataclass(wanted):
        assert isinstance(wanted, type), "annotations name classes"
        return _build_dataclass(wanted, value, where)
    arguments, origin = get_args(wanted), get_origin(wanted)
    if origin in (Union, types.UnionType) and len(arguments) == 2:
        inner = next(a for a in arguments if a is not types.NoneType)
        return None if value is None else build_typed(inner, value, where)
    if origin in (Mapping, dict):
        if isinstance(value, dict):
            return {key: build_typed(arguments[1], value[key], f"{where}: {key}") for key in value}
    elif origin is tuple:
        if isinstance(value, list):
            kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
            if len(kinds) == len(value):
                pairs = zip(kinds, value, strict=True)
                return tuple(build_typed(kind, item, where) for kind, item in pairs)
    elif wanted is float and type(value) is int:
        return float(value)
    elif type(value) is wanted:
        return value
    name = getattr(wanted, "__name__", str(wanted))
    raise CheckpointError(f"{where} must be {name}, got {value!r}")


def _build_dataclass(wanted: type, value: Json, where: str) -> Any:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be an object, got {value!r}")
    hints = get_type_hints(wanted)
    needed = {
        f.name
        for f in dataclasses.fields(wanted)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    for key in sorted(value.keys() - hints.keys()):
        raise CheckpointError(f"{where} has the unknown key {key!r}")
    for key in sorted(needed - value.keys()):
        raise CheckpointError(f"{where} lacks {key!r}")
    return wanted(**{key: build_typed(hints[key], value[key], f"{where}: {key}") for key in value})
