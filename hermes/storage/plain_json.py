"""JSON of users and of other programs, which may be anything: what is none is a ValueError."""

import json
from typing import Any

__all__ = ["DuplicateKeyError", "build_object", "load_json"]


class DuplicateKeyError(ValueError):
    """An object has a key twice, so that readers differ in what it holds."""


def build_object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object for json's object_pairs_hook. Raises DuplicateKeyError."""
    found = dict(items)
    if len(found) < len(items):
        keys = [key for key, _ in items]
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise DuplicateKeyError(f"the key {twice!r} is given twice")
    return found


def load_json(text: str | bytes) -> Any:
    """Parse JSON. NaN and infinities, and nesting too deep to be parsed, are a ValueError, too."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
