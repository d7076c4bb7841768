"""How the tokens of a tokenizer.json spell text, by its model and its decoder.

Two ways are known. Byte-level: every character of a token stands for a byte. SentencePiece's: a
token is text in which one character stands for a space, and rare characters may be spelt by byte
tokens, `<0x00>` to `<0xFF>`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hermes.errors import DataError
from hermes.tokenizer.bytelevel import BYTE_CHARACTERS

__all__ = ["Spelling", "iterate_stages", "list_pieces", "read_spelling"]

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
BYTE_OF = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
# UTF-8 never has these bytes, so that a tokenizer without them loses nothing.
UNUSED_BYTES = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))
PARTS = ("normalizers", "pretokenizers", "decoders", "processors")

# What the beginning of a text loses when it is decoded: nothing, one space, or all spaces of its
# first token.
Strip = Literal["nothing", "one space", "spaces of a token"]


@dataclass(frozen=True)
class Spelling:
    """How tokens spell text. kind: of tokenizer, in words.

    space: the character that stands for a space; '' in a byte-level vocabulary. has_byte_tokens:
    whether <0x0A> and its like are bytes. strip: what the beginning of a text loses in decoding.
    """

    kind: str
    space: str = ""
    has_byte_tokens: bool = False
    strip: Strip = "nothing"

    @property
    def is_byte_level(self) -> bool:
        """Whether characters of tokens stand for bytes."""
        return not self.space

    def spell(self, piece: str) -> bytes:
        """Spell a token of the model's vocabulary. -> its bytes"""
        if self.is_byte_level:
            known = all(character in BYTE_OF for character in piece)
            return bytes(map(BYTE_OF.__getitem__, piece)) if known else piece.encode()
        if self.has_byte_tokens and (found := BYTE_TOKEN.fullmatch(piece)):
            return bytes((int(found[1], 16),))
        return piece.replace(self.space, " ").encode()

    def spell_added(self, name: str) -> bytes:
        """Spell an added token that is not special: itself, with spaces for their character."""
        return (name if self.is_byte_level else name.replace(self.space, " ")).encode()

    def find_lacking_bytes(self, pieces: Mapping[str, int]) -> list[int]:
        """Find the bytes of UTF-8 that have no token of their own, where all are meant to."""
        if self.is_byte_level:
            names = BYTE_CHARACTERS
        elif self.has_byte_tokens:
            names = tuple(f"<0x{byte:02X}>" for byte in range(256))
        else:
            return []
        return [b for b, name in enumerate(names) if name not in pieces and b not in UNUSED_BYTES]


def iterate_stages(stage: Any) -> Iterator[dict[str, Any]]:
    """Iterate over a stage of the pipeline, and over those in it where it is a sequence."""
    if not isinstance(stage, dict):
        return
    found = [stage.get(name) for name in PARTS]
    inner = [part for parts in found if isinstance(parts, list) for part in parts]
    if not inner:
        yield stage
    for part in inner:
        yield from iterate_stages(part)


def list_pieces(model: Mapping[str, Any]) -> dict[str, int]:
    """List the tokens of a model with their ids."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: number for number, (piece, _) in enumerate(vocabulary)}


def read_spelling(config: Mapping[str, Any], source: str) -> Spelling:
    """Read how the tokens of a tokenizer.json spell text.

    Raises DataError, its message beginning with `source`, for a kind that hermes does not read.
    """
    model = config["model"]
    name = model.get("type") or ("BPE" if isinstance(model["vocab"], dict) else "Unigram")
    if name not in ("BPE", "Unigram"):
        raise _refuse(source, f"its model is {name}")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _refuse(source, f"its model has {key} {model[key]!r}")
    decoders = list(iterate_stages(config.get("decoder")))
    types = [str(stage.get("type")) for stage in decoders]
    if "ByteLevel" in types:
        before = (config.get("normalizer"), config.get("pre_tokenizer"))
        encodes = any(
            one.get("type") == "ByteLevel" for stage in before for one in iterate_stages(stage)
        )
        if name != "BPE" or not encodes or set(types) - {"ByteLevel", "Fuse"}:
            raise _refuse(source, f"it is {name} with the decoders {', '.join(types)}")
        return Spelling("byte-level BPE")
    return _read_metaspace(name, model, decoders, source)


def _read_metaspace(
    name: str, model: Mapping[str, Any], decoders: list[dict[str, Any]], source: str
) -> Spelling:
    """Read the spelling of SentencePiece's kind from the decoders, in their order."""
    space, strip, fused, has_byte_tokens = "", "nothing", False, False
    for stage in decoders:
        match stage:
            case {"type": "Replace", "pattern": {"String": str(found)}, "content": " "} if (
                len(found) == 1 and not space
            ):
                space = found
            case {"type": "Metaspace", "replacement": str(found)} if not space and not fused:
                scheme = stage.get("prepend_scheme", "always")
                adds = stage.get("add_prefix_space", True) and scheme != "never"
                space, strip = found, "spaces of a token" if adds else "nothing"
            case {"type": "ByteFallback"} if not fused:
                has_byte_tokens = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": 0, "stop": 0}:
                pass
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0} if fused:
                strip = "one space"
            case _:
                raise _refuse(source, f"it is {name} with the decoder {stage.get('type')}")
    if not space:
        raise _refuse(source, f"it is {name} without a decoder that gives spaces back")
    fallback = bool(model.get("byte_fallback"))
    kind = f"{name} with byte fallback" if fallback else name
    return Spelling(kind, space, has_byte_tokens and fallback, strip)  # type: ignore[arg-type]


def _refuse(source: str, found: str) -> DataError:
    return DataError(
        f"{source}: not a tokenizer that hermes reads: {found}; it reads byte-level BPE, and "
        "SentencePiece's BPE and Unigram, with or without byte fallback"
    )
