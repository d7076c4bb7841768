"""The files of text that travel with a model, and whether its tokenizer fits its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.checkpoint.files import read_small
from hermes.checkpoint.jsontext import parse_json, render_json
from hermes.errors import CheckpointError

__all__ = ["beside", "read_object", "require_fit", "travelling"]

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
GENERATION = "generation_config.json"
FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    GENERATION,
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


def require_fit(files: Mapping[str, bytes], vocab_size: int, where: str) -> None:
    """Refuse a tokenizer with more tokens than the model has rows. Raises CheckpointError."""
    if TOKENIZER not in files:
        return
    whole = read_object(files[TOKENIZER], f"{TOKENIZER} of {where}")
    model, added = whole.get("model"), whole.get("added_tokens") or []
    words = model.get("vocab", {}) if isinstance(model, dict) else {}
    # Unigram lists its words; BPE and the others map them to numbers.
    numbers = list(words.values()) if isinstance(words, dict) else list(range(len(words)))
    numbers += [token.get("id", -1) for token in added if isinstance(token, dict)]
    size = 1 + max((number for number in numbers if isinstance(number, int)), default=-1)
    if size > vocab_size:
        raise CheckpointError(
            f"the tokenizer of {where} has {size} tokens and its weights have {vocab_size}; "
            "find the one it was trained with"
        )


def travelling(files: Mapping[str, bytes], ids: Mapping[str, Any]) -> dict[str, bytes]:
    """The files as every reader takes them, with a generation_config.json of the token ids."""
    done = dict(files)
    known = {name: value for name, value in ids.items() if value is not None}
    if GENERATION not in done and known:
        done[GENERATION] = render_json(known)
    if TOKENIZER_CONFIG in done:
        config = read_object(done[TOKENIZER_CONFIG], TOKENIZER_CONFIG)
        if config.get("tokenizer_class") == NEW_CLASS:
            done[TOKENIZER_CONFIG] = render_json(config | {"tokenizer_class": CLASS})
    return done
