"""How a folder of prepared tokens is told from a folder of text."""

from pathlib import Path

__all__ = ["FORMAT", "MANIFEST", "PLAN", "is_begun", "is_prepared"]

MANIFEST = "manifest.json"
PLAN = "plan.json"  # while it is being prepared
FORMAT = "hermes tokens"


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds prepared tokens, judged by its manifest."""
    return f'"{FORMAT}"' in _read_start(folder / MANIFEST)


def is_begun(folder: Path) -> bool:
    """Whether a preparation was begun in a folder and is not done, judged by its plan."""
    return _read_start(folder / PLAN).startswith('{\n "tokenizer": {\n  "fingerprint": ')


def _read_start(path: Path) -> str:
    """The first characters of a file; "" where there is none, or no text."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(200)
    except (OSError, UnicodeDecodeError):
        return ""
