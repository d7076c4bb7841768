"""The key of encoded examples: a hash of all that decides them."""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hermes.chat_templates
import hermes.data
import hermes.tokenizer
from hermes.chat_templates.encoder import ChatEncoder
from hermes.tokenizer import Tokenizer

__all__ = ["hash_records", "make_example_key"]

FORMAT = 1
"""The format of the cache's files; another one is another key."""

# Of the time, a day is what a key can have: templates that ask for less are not kept.
DAYS = re.compile(r"[^%]|%-?[aAbBdeDFjmuwyY%]")
ASKS_TIME = re.compile(r"strftime_now\s*\(\s*(?:\"([^\"]*)\"|'([^']*)')\s*\)")


def hash_records(records: Iterable[Any]) -> tuple[str, int]:
    """Hash what dataclasses of records have, but for their places. -> SHA-256, bytes"""
    digest, size = hashlib.sha256(), 0
    for record in records:
        own = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "where"}
        data = json.dumps(own, default=_describe_value).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
        size += len(data)
    return digest.hexdigest(), size


def _describe_value(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def make_example_key(
    kind: str,
    records: str,
    tokenizer: Tokenizer,
    encoder: ChatEncoder | None,
    settings: Mapping[str, object],
) -> str | None:
    """Make the key of examples; None where they depend on the time of day.

    kind: sft or dpo. records: their hash. encoder: None without a template. settings: what else
    decides the examples of this kind.
    """
    own = [tokenizer.fingerprint, tokenizer.beginning, tokenizer.eos_id, tokenizer.bos_id]
    template: list[object] = []
    if encoder is not None:
        one = encoder.template
        day = _find_day(one.source)
        if day is None:
            return None
        template = [one.source, one.names, one.arguments, sorted(encoder.message_tokens), day]
    described = [FORMAT, _hash_code(), kind, records, own, template, settings]
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _find_day(source: str) -> str | None:
    """The day that a template may write; empty if it does not, None if it asks for less."""
    asked = source.count("strftime_now")
    if not asked:
        return ""
    formats = [first or second for first, second in ASKS_TIME.findall(source)]
    tests = len(re.findall(r"strftime_now\s+is\s+(?:not\s+)?defined", source))
    if len(formats) + tests < asked or any(DAYS.sub("", one) for one in formats):
        return None
    return time.strftime("%Y-%m-%d")


@cache
def _hash_code() -> str:
    """SHA-256 of the code that encodes: a change of it is another key."""
    digest = hashlib.sha256()
    for package in (hermes.chat_templates, hermes.tokenizer, hermes.data):
        for path in sorted(Path(package.__path__[0]).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    for name in ("jinja2", "tokenizers"):
        digest.update(f"{name} {version(name)}".encode())
    return digest.hexdigest()
