"""Strict JSON: texts that two readers could understand differently are refused.

Refused: duplicate keys, NaN and infinities, -0, numbers of more than 40 digits, lone surrogates and
nesting beyond Python's recursion limit.
"""

import json
from typing import Any

from hermes.errors import CheckpointError
from hermes.storage.plain_json import DuplicateKeyError, build_object, explain_json_error

__all__ = ["parse_json", "render_json"]

Json = Any
MAX_DIGITS = 40  # tokenizer settings carry 10^30 for "no limit"


class _Refused(Exception):
    """Why a text is refused; becomes the end of a CheckpointError's message."""


def _parse_integer(digits: str) -> int:
    if digits == "-0" or len(digits) > MAX_DIGITS:
        raise _Refused(f"the number {digits[:24]} is not an integer that hermes reads")
    return int(digits)


def _parse_float(digits: str) -> float:
    if len(digits) > MAX_DIGITS or abs(value := float(digits)) == float("inf"):
        raise _Refused(f"the number {digits[:24]} is out of range")
    return value


def _refuse_constant(name: str) -> None:
    raise _Refused(f"{name} is not JSON")


def parse_json(data: bytes, where: str) -> Json:
    """Parse UTF-8 JSON strictly. Raises CheckpointError, its message beginning with `where`."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=build_object,
            parse_int=_parse_integer,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
        )
        # \ud800 escapes can spell half a surrogate pair, which cannot be encoded as UTF-8.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise CheckpointError(f"{where} has half a surrogate pair in a string") from None
    except json.JSONDecodeError as error:
        what = explain_json_error(error)
        raise CheckpointError(
            f"{where} is not JSON: line {error.lineno}, column {error.colno}: {what}"
        ) from None
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply") from None
    except (_Refused, DuplicateKeyError) as reason:
        raise CheckpointError(f"{where} cannot be read: {reason}") from None
    return value


def render_json(value: Json) -> bytes:
    """Render canonical JSON: sorted keys, two spaces of indentation, ASCII, a newline at the end.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
