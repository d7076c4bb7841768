"""The files of text that travel with a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.chat_templates.encoder import read_end_of_turn
from hermes.checkpoint import Companions
from hermes.checkpoint.layout import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from hermes.errors import CheckpointError
from hermes.interop.huggingface.config_writer import make_config
from hermes.spec import ModelSpec
from hermes.storage.reading import read_small
from hermes.storage.strict_json import parse_json, render_json
from hermes.tokenizer import Tokenizer, build_tokenizer_config

__all__ = ["adapt_companions", "parse_object", "read_companions"]

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


def read_companions(folder: Path) -> dict[str, bytes]:
    """Those of a folder's files that travel with a model. Raises CheckpointError, StorageError."""
    return {name: read_small(folder / name) for name in FILES if (folder / name).is_file()}


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError."""
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must hold an object")
    return value


def adapt_companions(files: Mapping[str, bytes], ids: Mapping[str, Any]) -> dict[str, bytes]:
    """The files as every reader takes them, with a generation_config.json of the token ids."""
    done = dict(files)
    known = {name: value for name, value in ids.items() if value is not None}
    if GENERATION_CONFIG not in done and known:
        done[GENERATION_CONFIG] = render_json(known)
    if TOKENIZER_CONFIG in done:
        config = parse_object(done[TOKENIZER_CONFIG], TOKENIZER_CONFIG)
        if config.get("tokenizer_class") == NEW_CLASS:
            done[TOKENIZER_CONFIG] = render_json(config | {"tokenizer_class": CLASS})
    return done


def make_companions(
    spec: ModelSpec, tokenizer: Tokenizer, settings: Mapping[str, Any] | None = None
) -> Companions:
    """What each checkpoint of a run carries for other tools.

    settings: the contents of tokenizer_config.json, None for the usual. A padding token in them
    that ends a text or a turn gives way to the tokenizer's own, or to none.
    """
    t = tokenizer
    settings = dict(settings or build_tokenizer_config(t, max_seq_len=spec.max_seq_len))
    ends = t.stop_ids | ({read_end_of_turn(t, settings)} if "chat_template" in settings else set())
    stops = sorted(ends - {None}, key=lambda number: (number != t.eos_id, number))
    told = _find_token_id(t, settings.pop("pad_token", None))
    pad = t.pad_id if told in ends | {None, _find_token_id(t, settings.get("eos_token"))} else told
    if pad is not None:
        settings["pad_token"] = t.get_token_bytes(pad).decode()
    ids = {"bos_token_id": t.bos_id, "eos_token_id": stops, "pad_token_id": pad}
    return Companions(
        tokenizer_json=t.to_json(),
        tokenizer_config=settings,
        config=make_config(spec, bos_token_id=t.bos_id, eos_token_id=t.eos_id, pad_token_id=pad),
        generation_config={name: value for name, value in ids.items() if value not in (None, [])},
    )


def _find_token_id(tokenizer: Tokenizer, token: object) -> int | None:
    """The id of a token as tokenizer_config.json tells it: a name, or an object with `content`."""
    name = token.get("content") if isinstance(token, Mapping) else token
    return tokenizer.find_special_id(name) if isinstance(name, str) else None
