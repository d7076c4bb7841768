"""All that the fields of a spec are refused for; its dataclass raises the first."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from hermes.errors import SpecError
from hermes.mal.words import list_keys, list_required_keys
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec, NoPositions

__all__ = ["list_spec_errors"]

# In place of parts that have mistakes; no model is refused for them.
ATTENTION = AttentionSpec(num_heads=1, position_encoding=NoPositions())
FFN = FfnSpec(hidden_dim=1)
BLOCK = BlockSpec(ATTENTION, FFN)
STAND_INS: Mapping[str, object] = {"attention": ATTENTION, "ffn": FFN, "blocks": (BLOCK,)}
STAND_INS_BY_TYPE: Mapping[type, object] = {int: 1, float: 1.0, tuple: (1.0,)}


def list_spec_errors(
    kind: Callable[..., Any], given: Mapping[str, object], unknown: Iterable[str]
) -> list[SpecError]:
    """List what a spec of these fields is refused for; each that does not follow from another.

    unknown: fields that have mistakes, of whose values nothing is known.
    """
    values, hidden = dict(given), set(unknown)
    for key in [*list_required_keys(kind), *(["blocks"] if kind is ModelSpec else [])]:
        if key not in values:
            hidden.add(key)
            values[key] = _find_stand_in(kind, key)
    found: list[SpecError] = []
    replaced: set[tuple[str | int, ...]] = set()
    while True:
        try:
            kind(**values)
            return found
        except SpecError as error:
            if not error.path or error.path[:3] in replaced:
                return found if error.path or hidden or found else [error]
            if not _is_consequence(error, hidden):
                found.append(error)
            replaced.add(error.path[:3])
            if not _replace(kind, values, hidden, error.path):
                return found


def _find_stand_in(kind: Callable[..., Any], key: str) -> object:
    """A value that the field may have; None where there is none."""
    if key in STAND_INS:
        return STAND_INS[key]
    types = list_keys(kind).get(key, ())
    return next((STAND_INS_BY_TYPE[one] for one in types if one in STAND_INS_BY_TYPE), None)


def _is_consequence(error: SpecError, hidden: set[str]) -> bool:
    """Whether an error may come of a field whose value is not what the file says."""
    if error.path[0] in hidden or (error.path[0] == "blocks" and "hidden_size" in hidden):
        return True
    return any(re.search(rf"\b{re.escape(key)}\b", str(error)) for key in hidden)


def _replace(
    kind: Callable[..., Any],
    values: dict[str, object],
    hidden: set[str],
    path: tuple[str | int, ...],
) -> bool:
    """Put something that is never refused where an error was found; whether that was possible."""
    key = str(path[0])
    blocks = values.get("blocks")
    if key == "blocks" and len(path) > 1 and isinstance(blocks, tuple):
        index = int(path[1])
        part = path[2] if len(path) > 2 else None
        block = blocks[index]
        if part == "attention":
            block = replace(block, attention=ATTENTION)
        elif part == "ffn":
            block = replace(block, ffn=FFN)
        else:
            block = BLOCK
        values["blocks"] = (*blocks[:index], block, *blocks[index + 1 :])
        return True
    if key not in values:
        return False
    hidden.add(key)
    del values[key]
    if key in list_required_keys(kind) or key == "blocks":
        values[key] = _find_stand_in(kind, key)
    return True
