"""The manifest of a trained tokenizer: its settings, its inputs with their hashes, time, versions.

It lies beside tokenizer.json as tokenizer.manifest.json, and in every checkpoint of a run with that
tokenizer. A tokenizer whose manifest fits a training is what this training would make.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.formatting import format_count
from hermes.tokenizer.training import Settings, describe_settings

__all__ = ["MANIFEST", "find_misfit", "name_manifest"]

MANIFEST = "tokenizer.manifest.json"


def name_manifest(path: Path) -> Path:
    """The manifest beside a tokenizer's file: tokenizer.manifest.json beside tokenizer.json."""
    return path.with_name(f"{path.stem}.manifest.json")


def find_misfit(
    manifest: Mapping[str, Any] | None,
    settings: Settings,
    inputs: Sequence[Mapping[str, Any]],
    reading: Mapping[str, Any],
) -> str:
    """What keeps a tokenizer from being what a training would make; '' where nothing does.

    manifest: None where it has none. inputs: each file's bytes and sha256. reading: how they are
    read as text. Files may have moved: their order and hashes count.
    """
    if manifest is None:
        return "has no manifest beside it that says how it was trained"
    wanted = describe_settings(settings)
    known = dict(manifest.get("settings", {}))
    for name, value in wanted.items():
        value = list(value) if isinstance(value, tuple) else value
        if known.get(name) != value:
            return f"was trained with {name} {known.get(name)!r}, and not {value!r}"
    before = manifest.get("reading", reading)
    for name, value in reading.items():
        if before.get(name) != value:
            return f"was trained with {name} {before.get(name)!r}, and not {value!r}"
    there = [(one.get("bytes"), one.get("sha256")) for one in manifest.get("inputs", [])]
    here = [(one["bytes"], one["sha256"]) for one in inputs]
    for number, one in enumerate(inputs):
        if one["sha256"] is None:
            return f"cannot be compared with {one['path']}, which is no file"
        if number >= len(there) or there[number] != here[number]:
            return f"was trained on other text than that of {one['path']}"
    if len(there) != len(here):
        return f"was trained on {format_count(len(there), 'files')}, and not on {len(here)}"
    return ""
