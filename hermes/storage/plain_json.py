"""JSON of users and of other programs, which may be anything: what is none is a ValueError.

Records, requests, files beside a model, calls that a model wrote and what a run keeps come through
here; the JSON of a checkpoint is read more strictly, by `strict_json`.
"""

import json
import math
import re
from typing import Any

__all__ = [
    "DEEPEST",
    "DuplicateKeyError",
    "build_object",
    "decode_json",
    "explain_json_error",
    "load_json",
]

# Levels of lists and objects. Python's own limit depends on how deep the caller stands, and what is
# read just below it fails where it is written again. Schemas of tools have about ten.
DEEPEST = 200
TOO_DEEP = f"lists and objects are nested more than {DEEPEST} levels deep"
BYTE_ORDER_MARK = "\ufeff"
SPACE = re.compile(r"[ \t\n\r]*")


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


def explain_json_error(error: json.JSONDecodeError) -> str:
    """What is wrong, as part of a sentence that names the place: "unterminated string"."""
    what = error.msg.removesuffix(" starting at").removesuffix(" at")
    return what[:1].lower() + what[1:]


def load_json(text: str | bytes | bytearray) -> Any:
    """Parse JSON; bytes may be UTF-8, UTF-16 or UTF-32.

    Raises ValueError, of which json.JSONDecodeError, with the place, is one. It is also raised for
    NaN, infinities, numbers beyond float64 (1e400), integers of more than 4,300 digits, more than
    DEEPEST levels of lists and objects, and as DuplicateKeyError for a key that is given twice.
    """
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text))
    if text.startswith(BYTE_ORDER_MARK):
        raise json.JSONDecodeError("Unexpected byte order mark", text, 0)
    value, end = decode_json(text, _skip_space(text, 0))
    if (end := _skip_space(text, end)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def decode_json(text: str, start: int) -> tuple[Any, int]:
    """Parse the JSON value that begins at `start`, whatever follows it. -> value, its end

    Raises ValueError, as `load_json`.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # which tells how to lift Python's limit
            raise ValueError("a number has too many digits") from None
        raise
    brackets = text.count("[", start, end) + text.count("{", start, end)
    if brackets > DEEPEST and _is_too_deep(value):
        raise ValueError(TOO_DEEP)
    return value, end


def _skip_space(text: str, start: int) -> int:
    found = SPACE.match(text, start)
    assert found is not None, "it may be empty"
    return found.end()


def _is_too_deep(value: Any) -> bool:
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; null is")


def _read_float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"the number {digits[:24]} is out of range")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=build_object, parse_float=_read_float, parse_constant=_refuse_constant
)
