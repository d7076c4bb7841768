"""tiktoken's files of ranks, converted to tokenizer.json: a line per token, base64 and its rank.

Such a file has neither the expression that splits a text nor the special tokens, which stand in the
code of its model. Those of Llama 3 and of Qwen are known here, by the number of ranks.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from hermes.errors import DataError
from hermes.tokenizer.bytelevel import BYTE_CHARACTERS, describe_pre_tokenizer, make_bpe_json
from hermes.tokenizer.sentencepiece_model import find_merges
from hermes.tokenizer.tokenizer_json import make_template

__all__ = ["convert_tiktoken", "is_tiktoken"]

LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


@dataclass(frozen=True)
class _Known:
    """What a model's own code knows of its ranks. bos: the token that begins a text, if any."""

    name: str
    preset: str
    special: tuple[str, ...]
    nfc: bool = False
    bos: str = ""


def _list_llama3() -> tuple[str, ...]:
    named = (
        *("<|begin_of_text|>", "<|end_of_text|>", 0, 1, "<|finetune_right_pad_id|>"),
        *("<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        *("<|python_tag|>", *range(2, 247)),
    )
    return tuple(
        one if isinstance(one, str) else f"<|reserved_special_token_{one}|>" for one in named
    )


KNOWN = {
    128_000: _Known("Llama 3", "llama-bpe", _list_llama3(), bos="<|begin_of_text|>"),
    151_643: _Known(
        "Qwen",
        "qwen2",
        (
            *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
            *(f"<|extra_{number}|>" for number in range(205)),
        ),
        nfc=True,
    ),
}


def is_tiktoken(data: bytes) -> bool:
    """Whether a file holds ranks, and not a model of SentencePiece."""
    return LINE.match(data) is not None


def convert_tiktoken(data: bytes, source: str) -> dict[str, Any]:
    """Convert ranks to the contents of tokenizer.json. Raises DataError."""
    vocabulary = _read_ranks(data, source)
    known = KNOWN.get(len(vocabulary))
    if known is None:
        described = ", ".join(f"{one.name}'s {count:,}" for count, one in KNOWN.items())
        raise DataError(
            f"{source}: it has {len(vocabulary):,} ranks, and hermes knows how {described} split a "
            "text; convert it to tokenizer.json with the code that belongs to its model"
        )
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    first = len(vocabulary)
    added = [
        flags | {"id": first + number, "content": name, "special": True}
        for number, name in enumerate(known.special)
    ]
    return make_bpe_json(
        vocabulary,
        find_merges(sorted(vocabulary, key=vocabulary.__getitem__), vocabulary),
        describe_pre_tokenizer(known.preset),
        nfc=known.nfc,
        added_tokens=added,
        post_processor=make_template(known.bos, first) if known.bos else None,
        ignore_merges=True,  # as tiktoken does
    )


def _read_ranks(data: bytes, source: str) -> dict[str, int]:
    """Read the tokens, as characters that stand for bytes, with their ranks. Raises DataError."""
    ranks: dict[str, int] = {}
    for line, text in enumerate(data.splitlines(), 1):
        if not text.strip():
            continue
        try:
            token, rank = text.split()
            spelt = base64.b64decode(token, validate=True)
            ranks["".join(BYTE_CHARACTERS[byte] for byte in spelt)] = int(rank)
        except (ValueError, binascii.Error):
            raise DataError(
                f"{source}:{line}: not a token in base64 and its rank, as tiktoken writes them"
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise DataError(f"{source}: its ranks are not 0 to {len(ranks) - 1}")
    return ranks
