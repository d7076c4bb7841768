"""SentencePiece's model files, converted to tokenizer.json.

A model file is a protocol buffer (sentencepiece_model.proto of SentencePiece); the few fields that
decide how a text is split are read here. Source: Kudo and Richardson 2018, arXiv:1808.06226.
"""

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hermes.errors import DataError
from hermes.tokenizer.tokenizer_json import make_template

__all__ = ["convert_sentencepiece", "find_merges"]

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
# Classes of Hugging Face's that begin a text with BOS unless their settings say otherwise.
BEGINNING = ("Llama", "CodeLlama", "Gemma", "Mistral")


@dataclass(frozen=True)
class Piece:
    """A token of the model."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a model file says. charsmap: its normalization, compiled; empty for none."""

    pieces: tuple[Piece, ...]
    algorithm: int
    bos: int
    byte_fallback: bool
    charsmap: bytes
    adds_space: bool
    collapses_spaces: bool


Field = tuple[int, int | bytes]


def _read_fields(data: bytes) -> Iterator[Field]:
    """Iterate over the fields of a message. -> number, value. Raises ValueError, IndexError."""
    at = 0

    def read_varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    while at < len(data):
        key = read_varint()
        match key & 7:
            case 0:
                yield key >> 3, read_varint()
                continue
            case 1:
                size = 8
            case 2:
                size = read_varint()
            case 5:
                size = 4
            case wire:
                raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("the file ends within a field")
        yield key >> 3, data[at : at + size]
        at += size


def _parse(data: bytes, source: str) -> SentencePieceModel:
    """Parse a model file. Raises DataError."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _read_fields(data):
            if number == 1 and isinstance(value, bytes):
                held: dict[int, Any] = dict(_read_fields(value))
                score = struct.unpack("<f", held.get(2, b"\0\0\0\0"))[0]
                pieces.append(Piece(held.get(1, b"").decode("utf-8"), score, held.get(3, NORMAL)))
            elif number == 2 and isinstance(value, bytes):
                trainer = dict(_read_fields(value))
            elif number == 3 and isinstance(value, bytes):
                normalizer = dict(_read_fields(value))
    except (ValueError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise DataError(f"{source}: not a model of SentencePiece: {error}") from None
    if not pieces:
        raise DataError(f"{source}: not a model of SentencePiece: it has no tokens")
    algorithm = trainer.get(3, UNIGRAM)
    if algorithm not in (UNIGRAM, BPE):
        raise DataError(
            f"{source}: a SentencePiece model of type {algorithm} (words or characters); hermes "
            "reads unigram and bpe"
        )
    for number, name in ((24, "treat_whitespace_as_suffix"), (53, "pretokenization_delimiter")):
        if trainer.get(number):
            raise DataError(f"{source}: its {name} is set, which hermes does not read")
    return SentencePieceModel(
        tuple(pieces),
        algorithm,
        _as_signed(trainer.get(41, 1)),
        bool(trainer.get(35, 0)),
        normalizer.get(2, b""),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
    )


def _as_signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def find_merges(tokens: Sequence[str], known: Mapping[str, int]) -> list[list[str]]:
    """Find the merges of BPE that make tokens, best first: every split in two known tokens.

    SentencePiece and tiktoken join the pair whose result ranks best, however it is split.
    """
    return [
        [token[:i], token[i:]]
        for token in tokens
        for i in range(1, len(token))
        if token[:i] in known and token[i:] in known
    ]


def convert_sentencepiece(data: bytes, settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Convert a model file to the contents of tokenizer.json; settings: tokenizer_config.json.

    Raises DataError, its message beginning with `source`.
    """
    model = _parse(data, source)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _list_added(model),
        "normalizer": _make_normalizer(model),
        "pre_tokenizer": _make_pre_tokenizer(model),
        "post_processor": _make_post_processor(model, settings),
        "decoder": _make_decoder(model),
        "model": _make_model(model, source),
    }


def _list_added(model: SentencePieceModel) -> list[dict[str, Any]]:
    """List special tokens, and a user's own, which are found before all else.

    The library normalizes such a name as it does a text, which leaves it alone only where nothing
    but the space is replaced; elsewhere it is looked for in the text as it came.
    """
    plain, added = not (model.adds_space or model.charsmap), []
    for number, piece in enumerate(model.pieces):
        own = piece.kind == USER_DEFINED
        if own and (_has_scored_own(model) or (SPACE in piece.text and not plain)):
            continue
        if own or piece.kind in (UNKNOWN, CONTROL):
            flags = {"single_word": False, "lstrip": False, "rstrip": False}
            token = {"id": number, "content": piece.text, "special": not own}
            added.append(flags | token | {"normalized": own and plain})
    return added


def _has_scored_own(model: SentencePieceModel) -> bool:
    """Whether a user's own tokens win by their scores, as in SentencePiece's Unigram."""
    return model.algorithm == UNIGRAM and not model.charsmap


def _has_added_own(model: SentencePieceModel) -> bool:
    own = any(piece.kind == USER_DEFINED for piece in model.pieces)
    return own and not _has_scored_own(model)


def _make_model(model: SentencePieceModel, source: str) -> dict[str, Any]:
    unknown = next((i for i, one in enumerate(model.pieces) if one.kind == UNKNOWN), None)
    if model.algorithm == UNIGRAM:
        vocabulary = [[piece.text, piece.score] for piece in model.pieces]
        if _has_scored_own(model):
            best = max((one.score for one in model.pieces if one.kind == NORMAL), default=0.0)
            for entry, piece in zip(vocabulary, model.pieces, strict=True):
                if piece.kind == USER_DEFINED:  # as in unigram_model.cc
                    entry[1] = len(piece.text.encode()) * best - 0.1
        return {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": vocabulary,
            "byte_fallback": model.byte_fallback,
        }
    ids = {piece.text: number for number, piece in enumerate(model.pieces)}
    if len(ids) < len(model.pieces):
        raise DataError(f"{source}: two of its tokens are the same text")
    normal = [one for one in model.pieces if one.kind in (NORMAL, UNUSED)]
    known = {one.text: ids[one.text] for one in normal}
    best_first = sorted(normal, key=lambda one: (-one.score, ids[one.text]))
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else model.pieces[unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": ids,
        "merges": find_merges([one.text for one in best_first], known),
    }


def _make_normalizer(model: SentencePieceModel) -> dict[str, Any]:
    stages: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode("ascii")
        stages.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.collapses_spaces:
        for pattern, content in ((r"\A +", ""), (r" +\z", ""), (" {2,}", " ")):
            stages.append({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
    if model.adds_space and not _has_added_own(model):
        stages.append({"type": "Prepend", "prepend": SPACE})
    stages.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": stages}


def _make_pre_tokenizer(model: SentencePieceModel) -> dict[str, Any] | None:
    """Make what puts a space before a text where the normalizer would put one after added tokens.

    It puts none where the text begins with one.
    """
    if not (model.adds_space and _has_added_own(model)):
        return None
    own = {"type": "Metaspace", "replacement": SPACE}
    return own | {"prepend_scheme": "first", "split": False}


def _make_decoder(model: SentencePieceModel) -> dict[str, Any]:
    stages: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.adds_space or model.collapses_spaces:
        stages.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": stages}


def _make_post_processor(
    model: SentencePieceModel, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Make what begins a text with BOS, as Llama's, Mistral's and Gemma's own code does."""
    name = str(settings.get("tokenizer_class") or BEGINNING[0])
    known = 0 <= model.bos < len(model.pieces) and model.pieces[model.bos].kind == CONTROL
    if not known or not name.startswith(BEGINNING):
        return None
    return make_template(model.pieces[model.bos].text, model.bos)
