"""JSON of users and of other programs, which may be anything: what is none is a ValueError."""

import json
from typing import Any

__all__ = ["load_json"]


def load_json(text: str | bytes) -> Any:
    """Parse JSON. NaN and infinities, and nesting too deep to be parsed, are a ValueError, too."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
