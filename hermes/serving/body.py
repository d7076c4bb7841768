"""Reads the fields of a request's JSON body, each by its type and bounds, and none silently."""

import json
from collections.abc import Mapping
from typing import Any

from hermes.formatting import describe_surrogate
from hermes.serving.errors import ApiError
from hermes.storage.plain_json import load_json

__all__ = ["Body", "parse_body", "shorten"]

# Fields of OpenAI's API that change nothing of the answer of a model of one's own.
HARMLESS = frozenset(
    {
        *("user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "verbosity"),
    }
)
LONGEST_SHOWN = 60  # characters of a field's name or value in an error


def parse_body(data: bytes | bytearray) -> Any:
    """The JSON value of a body in UTF-8. Raises ApiError where it is none."""
    try:
        text = data.decode("utf-8-sig")
        value = load_json(text)
        # Only an escape can spell half of a surrogate pair, which no answer could have in it.
        found = describe_surrogate(json.dumps(value, ensure_ascii=False)) if "\\u" in text else ""
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:100]}") from None
    if found:
        raise ApiError(400, f"the body has a text that is {found}")
    return value


class Body:
    """The fields of a JSON object. Each is taken once; what is left at the end is refused by name.

    A null is the same as a field that is left out. Every method raises ApiError with the field's
    name.
    """

    def __init__(self, value: Any):
        if not isinstance(value, Mapping):
            raise ApiError(400, "the body must be a JSON object")
        self._fields = {key: one for key, one in value.items() if one is not None}

    def take(self, name: str, default: Any = None) -> Any:
        """The field as it is."""
        return self._fields.pop(name, default)

    def take_bool(self, name: str, default: bool = False) -> bool:
        """A field that is true or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "must be true or false", value)
        return value

    def take_int(self, name: str, low: int, high: int) -> int | None:
        """A whole number from low to high, None where there is none."""
        return self.take_count(name, low, low, high) if name in self._fields else None

    def take_count(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from low to high."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(name, f"must be a whole number from {low} to {high}", value)
        return int(value)

    def take_number(self, name: str, low: float, high: float) -> float | None:
        """A number from low to high."""
        value = self.take(name)
        if value is None:
            return None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise self.refuse(name, f"must be a number from {low:g} to {high:g}", value)
        return float(value)

    def take_strings(self, name: str, most: int) -> tuple[str, ...]:
        """A text, or a list of at most `most`."""
        value = self.take(name, [])
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self.refuse(name, "must be a text or a list of texts", value)
        if len(texts) > most:
            raise self.refuse(name, f"has {len(texts)} texts, and at most {most} are taken", value)
        return tuple(texts)

    def finish(self) -> None:
        """Refuse what no one took."""
        for name, value in self._fields.items():
            if name not in HARMLESS:
                raise self.refuse(shorten(name), "is not known to this server; leave it out", value)

    def refuse(self, name: str, why: str, value: Any) -> ApiError:
        """The error of a field."""
        return ApiError(400, f"{name} {why}; got {shorten(repr(value))}", param=name)


def shorten(text: str) -> str:
    """A name or value as an error shows it."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."
