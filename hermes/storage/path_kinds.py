"""What a path is, in words, where something else is needed: by names and first bytes alone."""

import re
from pathlib import Path

__all__ = ["CHECKPOINT", "HF_MODEL", "PREPARED", "RUN", "describe_kind", "say_kind"]

RUN, CHECKPOINT = "a run", "a checkpoint of a run"
PREPARED, HF_MODEL = "a folder of prepared tokens", "a model of Hugging Face"
STEP = re.compile(r"step-\d{8,18}")
# By a file that a folder of its kind has and what is in that, the first that fits.
FOLDERS = (
    ("manifest.json", b'"hermes tokens"', PREPARED),
    ("manifest.json", b'"hermes-checkpoint"', CHECKPOINT),
    ("adapter_config.json", b"", "a folder of adapters"),
    ("config.json", b'"model_type"', HF_MODEL),
    ("tokenizer.json", b"", "the folder of a tokenizer"),
)
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
    if any(STEP.fullmatch(name) for name in entries) and "manifest.json" not in entries:
        return RUN
    for name, mark, kind in FOLDERS:
        if name in entries and mark in _read_start(folder / name):
            return kind
        if name == "manifest.json" and "progress.json" in entries:
            return CHECKPOINT  # whose manifest is damaged or gone
    return ""


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 16)
