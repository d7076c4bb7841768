"""What a path is, in words, where something else is needed: by names and first bytes alone."""

import re
from pathlib import Path

__all__ = ["CHECKPOINT", "HF_MODEL", "PREPARED", "RUN", "describe_kind", "say_kind"]

RUN, CHECKPOINT = "a run", "a checkpoint of a run"
PREPARED, HF_MODEL = "a folder of prepared tokens", "a model of Hugging Face"
STEP = re.compile(r"step-\d{8,18}")
# By the file that a folder of its kind has, the first that is there.
FOLDERS = (
    ("adapter_config.json", "a folder of adapters"),
    ("config.json", HF_MODEL),
    ("tokenizer.json", "the folder of a tokenizer"),
)
MANIFESTS = ((b'"hermes tokens"', PREPARED), (b'"hermes-checkpoint"', CHECKPOINT))
FILES = {".safetensors": "a file of weights", ".mal": "an architecture in MAL"}


def describe_kind(path: Path) -> str:
    """What a file or folder is, as 'a run'; '' where that is not known, or nothing is there."""
    try:
        if path.is_dir():
            return _describe_folder(path)
        if not path.is_file():
            return ""
        if _read_start(path).startswith(b"GGUF"):
            return "a GGUF file"
        if path.name == "tokenizer.json":
            return "a tokenizer"
        return FILES.get(path.suffix, "a file")
    except OSError:
        return ""


def say_kind(path: Path) -> str:
    """'x is a run', or 'x' alone where it is not known what it is."""
    kind = describe_kind(path)
    return f"{path} is {kind}" if kind else str(path)


def _describe_folder(folder: Path) -> str:
    entries = {entry.name for entry in folder.iterdir()}
    if not entries:
        return "an empty folder"
    if "manifest.json" in entries:
        start = _read_start(folder / "manifest.json")
        known = next((kind for mark, kind in MANIFESTS if mark in start), "")
        if known:
            return known
    if any(STEP.fullmatch(name) for name in entries):
        return RUN
    return next((kind for name, kind in FOLDERS if name in entries), "")


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 16)
