"""A byte-level BPE tokenizer as vocab.json, merges.txt, special_tokens.txt and its map of roles.

special_tokens.txt has the name of a special token on each line; special_tokens_map.json says which
of them begins and ends a text and pads a row. The expression that splits text is in none of them:
readers take GPT-2's, or Qwen 2's with NFC where tokenizer_config.json names its class.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes.errors import DataError
from hermes.storage.durable import write_atomically
from hermes.tokenizer.files import MERGES, SETTINGS, SPECIAL, SPECIAL_LINES, VOCABULARY

if TYPE_CHECKING:
    from hermes.tokenizer.tokenizer import Tokenizer

__all__ = ["make_split_files", "save_split"]


def make_split_files(tokenizer: "Tokenizer") -> dict[str, bytes]:
    """Make the files, by name, such that reading them gives the same tokenizer.

    Raises DataError for one that they cannot express.
    """
    config = json.loads(tokenizer.to_json())
    model = config["model"]
    if model.get("type") != "BPE" or tokenizer.kind != "byte-level BPE":
        raise DataError(
            "vocab.json and merges.txt hold byte-level BPE, and this tokenizer is "
            f"{tokenizer.kind}; keep its tokenizer.json"
        )
    special = [one["content"] for one in config["added_tokens"] if one["special"]]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    roles = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    names = {f"{role}_token": tokenizer.get_name(n) for role, n in roles.items() if n is not None}
    settings: dict[str, Any] = {"add_bos_token": tokenizer.adds_bos}
    if config.get("normalizer"):
        settings["tokenizer_class"] = "Qwen2Tokenizer"
    files = {
        VOCABULARY: _render(model["vocab"]),
        MERGES: "\n".join(["#version: 0.2", *merges, ""]).encode(),
        SPECIAL_LINES: "".join(f"{name}\n" for name in special).encode(),
        SPECIAL: _render(names),
        SETTINGS: _render(settings),
    }
    _require_same(tokenizer, files)
    return files


def _render(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _require_same(tokenizer: "Tokenizer", files: dict[str, bytes]) -> None:
    """Read the files back. Raises DataError where that gives another tokenizer."""
    again = type(tokenizer).from_files(files, "vocab.json")
    if again.fingerprint == tokenizer.fingerprint:
        return
    raise DataError(
        "vocab.json and merges.txt cannot say how this tokenizer splits or normalizes text, and "
        "readers of them take GPT-2's expression, or Qwen 2's with NFC; train it with --preset "
        "gpt-2, or with --preset qwen2 --nfc, or keep its tokenizer.json"
    )


def save_split(tokenizer: "Tokenizer", folder: str | Path) -> list[Path]:
    """Write the files into a folder, each whole or not. Raises DataError, StorageError."""
    files = make_split_files(tokenizer)
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomically(where / name, data)
    return [where / name for name in files]
