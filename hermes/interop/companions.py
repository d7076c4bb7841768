"""The small files beside a model's weights: tokenizer, chat template, generation config."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hermes.chat_templates.encoder import read_end_of_turn
from hermes.checkpoint import Companions
from hermes.checkpoint.layout import CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG
from hermes.errors import CheckpointError, HermesError, MalError, SpecError
from hermes.formatting import format_count
from hermes.interop.huggingface.config_writer import make_config
from hermes.spec import ModelSpec
from hermes.storage.reading import read_small
from hermes.storage.strict_json import parse_json, render_json
from hermes.tokenizer import Tokenizer, build_tokenizer_config
from hermes.tokenizer.files import has_tokenizer, is_tokenizer_file

__all__ = [
    "adapt_companions",
    "check_rows",
    "describe_spare_rows",
    "explain_no_text",
    "make_companions",
    "name_file",
    "open_tokenizer",
    "parse_object",
    "read_companions",
    "read_generation_config",
    "read_template_settings",
]

CHAT_TEMPLATE_FILE = "chat_template.jinja"
# transformers 5 writes the first as tokenizer_class; transformers 4 knows only the second.
NEW_CLASS, CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """A block whose mistakes of an architecture begin with the file that they stand in."""
    try:
        yield
    except MalError:
        raise  # it says the line, too
    except SpecError as error:
        words = str(error)
        if not words.startswith(str(path)):
            own = words.startswith(CONFIG)  # what a reader calls it that knows no path
            error.args = (f"{path}{words.removeprefix(CONFIG)}" if own else f"{path}: {words}",)
        raise


def read_companions(folder: Path) -> dict[str, bytes]:
    """Read a folder's companion files, by name. Raises CheckpointError, StorageError."""
    names = sorted(
        one.name
        for one in folder.iterdir()
        if one.name != CONFIG and (is_tokenizer_file(one.name) or one.name == CHAT_TEMPLATE_FILE)
    )
    return {name: read_small(folder / name) for name in names if (folder / name).is_file()}


def open_tokenizer(
    files: Mapping[str, bytes], ids: Mapping[str, Any], where: Path
) -> Tokenizer | None:
    """Open the tokenizer of companion files; None where there is none. Raises DataError.

    ids: special token ids of config.json.
    """
    if not has_tokenizer(files):
        return None
    told = {name: value for name, value in ids.items() if value is not None}
    return Tokenizer.from_files({**files, CONFIG: json.dumps(told).encode()}, where)


def explain_no_text(
    files: Mapping[str, bytes], ids: Mapping[str, Any], where: Path, rows: int
) -> str:
    """Explain why a model of so many rows can do nothing with text; "" if it can."""
    try:
        tokenizer = open_tokenizer(files, ids, where)
    except HermesError as error:
        return f"the tokenizer cannot be read: {error}"
    if tokenizer is None:
        return "no tokenizer"
    try:
        check_rows(tokenizer, rows)
    except CheckpointError as error:
        return str(error)
    return ""


def check_rows(tokenizer: Tokenizer, rows: int) -> None:
    """Raise CheckpointError unless every token that text can have has a row in the model."""
    if not tokenizer.special_ids.issuperset(range(rows, tokenizer.vocab_size)):
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {rows}; use the "
            "tokenizer that the model was trained with"
        )


def describe_spare_rows(tokenizer: Tokenizer, rows: int) -> str:
    """Say that a model has more rows without a token than padding makes; "" where it has not.

    Fewer rows than tokens are no matter here: special tokens may lack one, as Gemma 3's
    <image_soft_token> does, which text never has.
    """
    spare = rows - tokenizer.vocab_size
    if spare <= rows // 50 or (spare < 128 and rows % 64 == 0):
        return ""
    return (
        f"the model has rows for {format_count(spare, 'more tokens')} than the tokenizer's "
        f"{tokenizer.vocab_size:,}; they are never produced"
    )


def read_template_settings(path: Path) -> dict[str, Any]:
    """Read the tokenizer_config.json beside a tokenizer, with the chat template that may be there.

    path: its file or its folder. {} where there is none. Raises CheckpointError, StorageError.
    """
    folder = path if path.is_dir() else path.parent
    config, template = folder / TOKENIZER_CONFIG, folder / CHAT_TEMPLATE_FILE
    settings = parse_object(read_small(config), str(config)) if config.is_file() else {}
    if template.is_file():
        settings["chat_template"] = read_small(template).decode("utf-8", errors="replace")
    return settings


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object; where: the file's name in errors. Raises CheckpointError."""
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must hold an object")
    return value


def read_generation_config(files: Mapping[str, bytes], where: str | Path) -> dict[str, Any]:
    """Read the generation_config.json among a model's files, {} without one.

    where: the model's folder. Raises CheckpointError.
    """
    held = files.get(GENERATION_CONFIG)
    return parse_object(held, f"{where}/{GENERATION_CONFIG}") if held else {}


def adapt_companions(files: Mapping[str, bytes], ids: Mapping[str, Any]) -> dict[str, bytes]:
    """Adapt companion files so that every reader accepts them.

    ids: special token ids, for a generation_config.json if there is none.
    """
    adapted = dict(files)
    known = {name: value for name, value in ids.items() if value is not None}
    if GENERATION_CONFIG not in adapted and known:
        adapted[GENERATION_CONFIG] = render_json(known)
    if TOKENIZER_CONFIG in adapted:
        config = parse_object(adapted[TOKENIZER_CONFIG], TOKENIZER_CONFIG)
        if config.get("tokenizer_class") == NEW_CLASS:
            adapted[TOKENIZER_CONFIG] = render_json(config | {"tokenizer_class": CLASS})
    return adapted


def make_companions(
    spec: ModelSpec, tokenizer: Tokenizer, settings: Mapping[str, Any] | None = None
) -> Companions:
    """Make the companion files of a run's checkpoints.

    settings: contents of tokenizer_config.json; None for the default. A padding token that also
    ends texts or turns is replaced by the tokenizer's own, or removed: trainers that ignore padding
    would never learn to end.
    """
    t = tokenizer
    settings = dict(settings or build_tokenizer_config(t, max_seq_len=spec.max_seq_len))
    ends = t.stop_ids | ({read_end_of_turn(t, settings)} if "chat_template" in settings else set())
    stops = sorted(ends - {None}, key=lambda number: (number != t.eos_id, number))
    given = _find_token_id(t, settings.pop("pad_token", None))
    not_padding = ends | {None, _find_token_id(t, settings.get("eos_token"))}
    pad = t.pad_id if given in not_padding else given
    if pad is not None:
        settings["pad_token"] = t.get_name(pad)
    settings["add_bos_token"] = t.adds_bos
    ids = {"bos_token_id": t.bos_id, "eos_token_id": stops, "pad_token_id": pad}
    return Companions(
        tokenizer_json=t.to_json(),
        tokenizer_config=settings,
        config=make_config(spec, bos_token_id=t.bos_id, eos_token_id=t.eos_id, pad_token_id=pad),
        generation_config={name: value for name, value in ids.items() if value not in (None, [])},
        tokenizer_manifest=t.manifest,
    )


def _find_token_id(tokenizer: Tokenizer, token: object) -> int | None:
    """Find the id of a token of tokenizer_config.json: a name, or an object with `content`."""
    name = token.get("content") if isinstance(token, Mapping) else token
    return tokenizer.find_id(name) if isinstance(name, str) else None
