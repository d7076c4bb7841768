"""The files of a folder that hold a tokenizer, read as the text of tokenizer.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.errors import CheckpointError, DataError, StorageError, explain_os_error
from hermes.storage.addresses import find_address
from hermes.storage.reading import read_bounded
from hermes.storage.strict_json import parse_json
from hermes.tokenizer.bytelevel import make_byte_level_json
from hermes.tokenizer.manifest import MANIFEST, name_manifest
from hermes.tokenizer.roles import FILES as ROLE_FILES
from hermes.tokenizer.sentencepiece_model import convert_sentencepiece
from hermes.tokenizer.tiktoken_ranks import convert_tiktoken, is_tiktoken

__all__ = [
    "has_tokenizer",
    "is_tokenizer_file",
    "parse_settings",
    "read_folder",
    "render_tokenizer_json",
]

JSON, VOCABULARY, MERGES, ADDED = "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"
SETTINGS, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
SPECIAL_LINES = "special_tokens.txt"
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
MISSING = (
    "no such tokenizer; make one with 'hermes train-tokenizer', or while training with "
    "--train-tokenizer"
)
DOWNLOAD = "download the tokenizer, or name one on the Hub as hf://OWNER/REPO"


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of this name holds a tokenizer, or says of one what its tokens mean."""
    own = (JSON, VOCABULARY, MERGES, ADDED, SPECIAL_LINES, MANIFEST, *MODELS)
    return name in own or name in ROLE_FILES or name.endswith(".tiktoken")


def has_tokenizer(files: Mapping[str, bytes]) -> bool:
    """Whether one of these files holds a vocabulary."""
    pair = VOCABULARY in files and MERGES in files
    return pair or any(n in (JSON, *MODELS) or n.endswith(".tiktoken") for n in files)


def read_folder(path: Path) -> tuple[dict[str, bytes], str]:
    """Read the files of a tokenizer: those of a folder, or one and what lies beside it.

    -> contents by name, and the name for errors. Raises DataError, StorageError.
    """
    folder, chosen = (path, None) if path.is_dir() else (path.parent, path)
    try:
        if chosen is None:
            entries = [one for one in folder.iterdir() if is_tokenizer_file(one.name)]
            files = {one.name: read_bounded(one) for one in sorted(entries) if one.is_file()}
            return files, str(folder)
        beside: tuple[str, ...] = (*ROLE_FILES, ADDED)
        if chosen.name in (VOCABULARY, MERGES):
            beside += (VOCABULARY, MERGES, SPECIAL_LINES)
        files = {n: read_bounded(folder / n) for n in beside if (folder / n).is_file()}
        is_json = not chosen.name.endswith((".model", ".tiktoken")) and chosen.name not in files
        files[JSON if is_json else chosen.name] = read_bounded(chosen)
        if name_manifest(chosen).is_file():
            files[MANIFEST] = read_bounded(name_manifest(chosen))
    except FileNotFoundError:
        if address := find_address(path):
            raise DataError(f"{address} is an address; {DOWNLOAD}") from None
        raise DataError(f"{path}: {MISSING}") from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
    return files, str(path)


def render_tokenizer_json(files: Mapping[str, bytes], where: str) -> tuple[str, str]:
    """Render tokenizer.json from the files that hold a tokenizer. -> the text, its name for errors

    where: the folder of the files, or the one file. Raises DataError.
    """

    def name(file: str) -> str:
        return where if Path(where).suffix and Path(where).is_file() else f"{where}/{file}"

    if JSON in files:
        return _decode(files[JSON], name(JSON)), name(JSON)
    if VOCABULARY in files and MERGES in files:
        source = name(VOCABULARY)
        vocabulary = _parse(files[VOCABULARY], source)
        lines = _decode(files[MERGES], name(MERGES)).splitlines()
        settings = parse_settings(files, where).get(SETTINGS, {})
        config = make_byte_level_json(vocabulary, lines, settings, source)
        return _finish(config, files, where), source
    for file in (*MODELS, *(one for one in files if one.endswith((".model", ".tiktoken")))):
        if file not in files:
            continue
        source = name(file)
        settings = parse_settings(files, where).get(SETTINGS, {})
        if is_tiktoken(files[file]):
            return _finish(convert_tiktoken(files[file], source), files, where), source
        converted = convert_sentencepiece(files[file], settings, source)
        return _finish(converted, files, where), source
    raise DataError(f"{where}/{JSON}: {MISSING}")


def parse_settings(files: Mapping[str, bytes], where: str) -> dict[str, dict[str, Any]]:
    """Parse the files that say what tokens mean, and how they were trained. Raises DataError."""
    return {n: _parse(files[n], f"{where}: {n}") for n in (*ROLE_FILES, MANIFEST) if n in files}


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = parse_json(data, where)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: must hold an object")
    return value


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 at byte {error.start}, so it is not a tokenizer"
        ) from None


def _finish(config: dict[str, Any], files: Mapping[str, bytes], where: str) -> str:
    """Add the tokens that other files add to a converted vocabulary."""
    settings = parse_settings(files, where)
    vocabulary = config["model"]["vocab"]
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {
        piece: number for number, (piece, _) in enumerate(vocabulary)
    }  # fmt: skip
    added = {token["content"]: token for token in config["added_tokens"]}
    more = _parse(files[ADDED], f"{where}: {ADDED}") if ADDED in files else {}
    special = _collect_special(settings)
    if SPECIAL_LINES in files:
        lines = _decode(files[SPECIAL_LINES], f"{where}: {SPECIAL_LINES}").splitlines()
        special += [line for line in lines if line]
        _append_missing(special, ids, added)
    for content, number in more.items():
        added.setdefault(content, FLAGS | {"id": number, "content": content, "special": False})
    for number, token in (settings.get(SETTINGS, {}).get("added_tokens_decoder") or {}).items():
        flags = {name: token.get(name, value) for name, value in FLAGS.items()}
        content, is_special = token["content"], bool(token.get("special"))
        added[content] = flags | {"id": int(number), "content": content, "special": is_special}
    for content in special:
        if content in added:
            added[content]["special"] = True
        elif content in ids:
            added[content] = FLAGS | {"id": ids[content], "content": content, "special": True}
    tokens = sorted(added.values(), key=lambda token: int(token["id"]))
    return json.dumps(config | {"added_tokens": tokens}, ensure_ascii=False)


def _append_missing(
    names: list[str], ids: Mapping[str, int], added: dict[str, dict[str, Any]]
) -> None:
    """Give ids after the last one to the special tokens that the vocabulary lacks."""
    free = max((*ids.values(), *(int(one["id"]) for one in added.values())), default=-1) + 1
    for name in dict.fromkeys(names):
        if name not in ids and name not in added:
            added[name] = FLAGS | {"id": free, "content": name, "special": True}
            free += 1


def _collect_special(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Collect the names of special tokens that the settings list by role."""
    found: list[str] = []
    for file in (SETTINGS, SPECIAL):
        for key, value in settings.get(file, {}).items():
            listed = value if key == "additional_special_tokens" else [value]
            for one in listed if key.endswith(("_token", "_tokens")) and listed else ():
                name = one.get("content") if isinstance(one, dict) else one
                if isinstance(name, str):
                    found.append(name)
    return found
