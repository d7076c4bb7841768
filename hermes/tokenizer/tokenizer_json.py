"""Reads the text of tokenizer.json, and edits what it says of the pipeline."""

import copy
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from hermes.errors import DataError
from hermes.rust_panics import drop_panics
from hermes.storage.plain_json import explain_json_error, load_json
from hermes.tokenizer.growth import check_growth
from hermes.tokenizer.spelling import BYTE_TOKEN, iterate_stages, list_pieces

__all__ = [
    "make_continuing",
    "make_pipeline",
    "make_template",
    "parse_tokenizer_json",
    "protect_special_tokens",
    "read_beginning",
    "set_template",
]

MOST_TOKENS = 1 << 24  # ids index arrays, so that one number of a file must not ask for gigabytes
BYTE_NAME = "<(?=0x[0-9A-F]{2}>)"
UNTYPED = "\U0010ffff"  # around names that no text is to have
Config = dict[str, Any]


def parse_tokenizer_json(text: str, source: str) -> Config:
    """Parse the text of a tokenizer.json. Raises DataError, its message beginning with `source`."""
    try:
        config = load_json(text)
    except json.JSONDecodeError as error:
        what = explain_json_error(error)
        raise DataError(
            f"{source}:{error.lineno}:{error.colno}: not JSON ({what}); a tokenizer.json of "
            "Hugging Face tokenizers is needed"
        ) from None
    except ValueError as error:
        raise DataError(f"{source}: not a tokenizer.json: {error}") from None
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise DataError(f"{source}: not a tokenizer.json: it has no model with a vocabulary")
    try:
        added = [token["id"] for token in config.get("added_tokens") or ()]
        largest = max([*added, *list_pieces(model).values()], default=-1)
        sound = all(type(number) is int for number in (*added, *list_pieces(model).values()))
    except (TypeError, ValueError, LookupError, AttributeError):
        sound = False
    if not sound:
        raise DataError(f"{source}: not a tokenizer.json: its vocabulary is damaged")
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict) and len(set(vocabulary.values())) < len(vocabulary):
        names = {number: name for name, number in vocabulary.items()}
        one = next(name for name, number in vocabulary.items() if names[number] != name)
        raise DataError(
            f"{source}: tokens {one!r:.60} and {names[vocabulary[one]]!r:.60} have the same id, "
            f"{vocabulary[one]}; a tokenizer has one token for each"
        )
    if largest >= MOST_TOKENS:
        raise DataError(
            f"{source}: a token has id {largest}; hermes reads ids below {MOST_TOKENS:,}"
        )
    check_growth(config, source)
    return dict(config)


def make_pipeline(config: Config | str, source: str) -> Any:
    """Make an object of Hugging Face tokenizers that neither truncates nor pads.

    Raises DataError, its message beginning with `source`.
    """
    from tokenizers import Tokenizer

    text = config if isinstance(config, str) else json.dumps(config)
    try:
        with drop_panics():
            inner = Tokenizer.from_str(text)
    except BaseException as error:  # the library raises Exception, and PanicException for a bug
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise DataError(
            f"{source}: tokenizers {version('tokenizers')} cannot read it: "
            f"{' '.join(str(error).split())}"
        ) from None
    inner.no_truncation()
    inner.no_padding()
    return inner


def make_continuing(config: Config, *, after_special: bool = False) -> Config | None:
    """Edit the pipeline for text that continues other text: nothing is put before it.

    after_special: it follows a special token, before which some tokenizers put a space all the
    same. None where nothing is to be edited.
    """
    edited = copy.deepcopy(config)
    words = [stage.get("type") for stage in iterate_stages(config.get("pre_tokenizer"))]
    # What splits at spaces and drops them marks the beginning of every word; a space there stays.
    marks_words = bool({"WhitespaceSplit", "Whitespace", "BertPreTokenizer"} & set(words))
    changed = False
    for stage in iterate_stages(edited.get("pre_tokenizer")):
        kind, scheme = stage.get("type"), stage.get("prepend_scheme", "always")
        if kind == "Metaspace" and not marks_words and scheme != "never":
            if not (after_special and scheme == "always"):
                stage["prepend_scheme"], changed = "never", True
                stage.pop("add_prefix_space", None)
        elif kind == "ByteLevel" and stage.get("add_prefix_space") and not after_special:
            stage["add_prefix_space"], changed = False, True
    if not after_special:
        for stage in iterate_stages(edited.get("normalizer")):
            if stage.get("type") == "Prepend":
                stage["prepend"], changed = "", True
            elif stage.get("type") == "Strip" and stage.get("strip_left"):
                stage["strip_left"], changed = False, True
            elif str((stage.get("pattern") or {}).get("Regex", "")).startswith(r"\A"):
                stage["pattern"], changed = {"Regex": "(?!)"}, True  # which matches nothing
    return edited if changed else None


def protect_special_tokens(config: Config, special: Iterable[str]) -> Config | None:
    """Edit the model so that no text becomes a special token, nor a byte token by its name.

    None where nothing is to be edited.
    """
    names, model = set(special), config["model"]
    if isinstance(model["vocab"], list):
        return _protect_unigram(config, names)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    kept = [pair for pair in pairs if not _is_reserved("".join(pair), names, model)]
    if len(kept) == len(pairs):
        return None
    return config | {"model": model | {"merges": kept}}


def _is_reserved(piece: str, names: set[str], model: Mapping[str, Any]) -> bool:
    return piece in names or bool(model.get("byte_fallback") and BYTE_TOKEN.fullmatch(piece))


def _protect_unigram(config: Config, names: set[str]) -> Config | None:
    """Edit Unigram's vocabulary, in whose trie every token is text.

    The model finds byte tokens by their names, so a text that spells one is split instead.
    """
    model = config["model"]
    found = {
        number
        for number, (piece, _) in enumerate(model["vocab"])
        if piece in names and number != model.get("unk_id")
    }
    vocabulary = [
        [f"{UNTYPED}{piece}{UNTYPED}" if number in found else piece, score]
        for number, (piece, score) in enumerate(model["vocab"])
    ]
    edited = config | {"model": model | {"vocab": vocabulary}} if found else config
    if model.get("byte_fallback"):
        split = {"type": "Split", "pattern": {"Regex": BYTE_NAME}, "behavior": "Isolated"}
        own = config.get("pre_tokenizer")
        stages = [*([own] if own else []), split | {"invert": False}]
        edited = edited | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": stages}}
    return None if edited is config else edited


def make_template(name: str, number: int) -> Config:
    """Make the post-processor that begins a text with a token."""
    first, second = ({"SpecialToken": {"id": name, "type_id": i}} for i in range(2))
    one, two = ({"Sequence": {"id": part, "type_id": i}} for i, part in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, one],
        "pair": [first, one, second, two],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}},
    }


def set_template(config: Config, bos: tuple[str, int] | None) -> Config:
    """Set whether the post-processor begins a text with a token; bos: its name and id.

    What else it puts around a text is left out.
    """
    kept = [
        stage
        for stage in iterate_stages(config.get("post_processor"))
        if stage.get("type") not in ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
    ]
    if bos is not None:
        kept.append(make_template(*bos))
    processor = {"type": "Sequence", "processors": kept} if len(kept) > 1 else None
    return config | {"post_processor": processor or (kept[0] if kept else None)}


def read_beginning(config: Mapping[str, Any]) -> int | None:
    """Read the id that the post-processor puts before a text; None where it puts none."""
    for stage in iterate_stages(config.get("post_processor")):
        match stage:
            case {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": name}}, *_],
                "special_tokens": dict(tokens),
            } if name in tokens and tokens[name].get("ids"):
                return int(tokens[name]["ids"][0])
            case {"type": "RobertaProcessing" | "BertProcessing", "cls": [_, int(number)]}:
                return number
    return None
