"""The files of text that travel with a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.checkpoint.files import read_small
from hermes.checkpoint.jsontext import parse_json, render_json
from hermes.checkpoint.layout import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from hermes.errors import CheckpointError

__all__ = ["beside", "read_object", "travelling"]

FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    GENERATION_CONFIG,
)
# The name that transformers 5 gives to any tokenizer of tokenizers; 4 knows only the other one.
NEW_CLASS, CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def beside(folder: Path) -> dict[str, bytes]:
    """Those of a folder's files that travel with a model. Raises CheckpointError, StorageError."""
    return {name: read_small(folder / name) for name in FILES if (folder / name).is_file()}


def read_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError."""
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must hold an object")
    return value


def travelling(files: Mapping[str, bytes], ids: Mapping[str, Any]) -> dict[str, bytes]:
    """The files as every reader takes them, with a generation_config.json of the token ids."""
    done = dict(files)
    known = {name: value for name, value in ids.items() if value is not None}
    if GENERATION_CONFIG not in done and known:
        done[GENERATION_CONFIG] = render_json(known)
    if TOKENIZER_CONFIG in done:
        config = read_object(done[TOKENIZER_CONFIG], TOKENIZER_CONFIG)
        if config.get("tokenizer_class") == NEW_CLASS:
            done[TOKENIZER_CONFIG] = render_json(config | {"tokenizer_class": CLASS})
    return done
