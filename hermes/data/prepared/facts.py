"""Whether what a manifest of prepared tokens says can be true, before any of it is used.

A folder of tokens may come from anywhere: a name of a shard leads to no other folder, and a type of
ids is one that hermes writes.
"""

import re
from typing import Any

from hermes.data.token_shards import ID_TYPES

__all__ = ["require_facts", "require_shard"]

SHARD_NAME = re.compile(r"[0-9]{5,12}-[0-9]{5,12}", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
MOST = 1 << 48  # of tokens, bytes and documents: 281 trillion
COUNTS = ("tokens", "documents", "text_bytes", "largest")
MAPPINGS: dict[str, dict[str, type]] = {
    "tokenizer": {"fingerprint": str, "eos_id": int, "beginning": list},
    "options": {"documents": str},
}
ITEMS: dict[str, dict[str, type]] = {
    "plan": {"name": str, "kind": str, "size": int},
    "sources": {"name": str, "size": int, "sha256": str, "of": str},
}


def require_facts(facts: dict[str, Any]) -> None:
    """Raise ValueError, with the reason, for facts that no preparation writes."""
    _require_counts(facts)
    if facts.get("dtype") not in ID_TYPES:
        raise ValueError(f"its dtype is {facts.get('dtype')!r}, not one of {', '.join(ID_TYPES)}")
    _require_hash(facts, "fingerprint")
    for name, keys in MAPPINGS.items():
        _require_types(facts.get(name), keys, name)
    for name, keys in ITEMS.items():
        items = facts.get(name)
        if not isinstance(items, list) or not items:
            raise ValueError(f"its {name!r} is no list of files")
        for item in items:
            _require_types(item, keys, name)
    shards = facts.get("shards")
    if not isinstance(shards, list) or not shards or facts["tokens"] < 1:
        raise ValueError("it has no tokens")


def require_shard(shard: dict[str, Any]) -> None:
    """Raise ValueError, with the reason, for a shard that no preparation writes."""
    if not isinstance(shard["name"], str) or not SHARD_NAME.fullmatch(shard["name"]):
        raise ValueError(f"{shard['name']!r} is no name of a shard")
    _require_counts(shard)
    for name in shard:
        if name.endswith("sha256"):
            _require_hash(shard, name)


def _require_counts(facts: dict[str, Any]) -> None:
    for name in COUNTS:
        value = facts.get(name)
        if type(value) is not int or not 0 <= value <= MOST:
            raise ValueError(f"its {name!r} is no count")


def _require_hash(facts: dict[str, Any], name: str) -> None:
    value = facts.get(name)
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise ValueError(f"its {name!r} is no SHA-256")


def _require_types(value: Any, keys: dict[str, type], name: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"its {name!r} is of the wrong type")
    for key, kind in keys.items():
        if type(value.get(key)) is not kind:
            raise ValueError(f"{key!r} in its {name!r} is of the wrong type")
