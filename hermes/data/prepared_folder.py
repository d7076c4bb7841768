"""How a folder of prepared tokens is told from a folder of text."""

from pathlib import Path

__all__ = ["FORMAT", "MANIFEST", "is_prepared"]

MANIFEST = "manifest.json"
FORMAT = "hermes tokens"


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds prepared tokens, judged by its manifest."""
    try:
        with open(folder / MANIFEST, encoding="utf-8") as file:
            return f'"{FORMAT}"' in file.read(200)
    except (OSError, UnicodeDecodeError):
        return False
