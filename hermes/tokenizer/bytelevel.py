"""Byte-level BPE: alphabet, pre-tokenizers and normalizers, and where text may be cut.

All that hermes knows about the format of Hugging Face tokenizers, a library that is imported only
when a function needs it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

from hermes.errors import DataError

__all__ = [
    "BYTE_CHARACTERS",
    "PRESETS",
    "make_normalizer",
    "make_pre_tokenizer",
    "read_byte_level",
    "split_text",
]

PIECE = 1 << 16  # characters that are encoded at once

# The published expressions, as llama.cpp's `tokenizer.ggml.pre` and tokenizer.json of GPT-2,
# Llama 3 and Qwen 2 have them. ByteLevel(use_regex=True) has GPT-2's built in.
PRESETS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}

# ASCII folding of characters that do not decompose into an ASCII letter and combining marks.
FOLDS = {
    "AE": "Æ", "ae": "æ", "OE": "Œ", "oe": "œ", "SS": "ẞ", "ss": "ß", "TH": "Þ", "th": "þ",
    "IJ": "Ĳ", "ij": "ĳ", "O": "Ø", "o": "øº", "D": "ÐĐ", "d": "ðđ", "L": "Ł", "l": "ł", "H": "Ħ",
    "h": "ħ", "T": "Ŧ", "t": "ŧ", "i": "ı", "a": "ª", "ff": "ﬀ", "fi": "ﬁ", "fl": "ﬂ", "ffi": "ﬃ",
    "ffl": "ﬄ", "1": "¹", "2": "²", "3": "³", "'": "‘’‚‛‹›", '"': "“”„‟«»", "-": "‐‑‒–—―−",
    "/": "⁄", "...": "…", " ": "\u00a0\u2000-\u200a\u202f\u205f",
}  # fmt: skip


def _build_byte_characters() -> tuple[str, ...]:
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    by_byte = {byte: chr(byte) for byte in shown}
    by_byte |= {byte: chr(256 + offset) for offset, byte in enumerate(hidden)}
    return tuple(by_byte[byte] for byte in range(256))


BYTE_CHARACTERS = _build_byte_characters()
"""The character that stands for each byte in a byte-level vocabulary. Source: GPT-2's encoder.py.

Printable Latin-1 bytes stand for themselves; the others are the characters from U+0100 on.
"""


def make_pre_tokenizer(preset: str) -> Any:
    """Make the pre-tokenizer of a preset, an object of Hugging Face tokenizers."""
    from tokenizers import Regex, pre_tokenizers

    if preset == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRESETS[preset]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def make_normalizer(nfc: bool, fold_ascii: bool) -> Any:
    """Make a normalizer, an object of Hugging Face tokenizers; None where nothing is asked for.

    fold_ascii removes marks from Latin letters and writes Latin ligatures, quotes, dashes and
    spaces in ASCII; other scripts and symbols are only composed (NFC).
    """
    from tokenizers import Regex, normalizers

    if not fold_ascii:
        return normalizers.NFC() if nfc else None
    marks = normalizers.Replace(Regex("(?<=[A-Za-z])[\u0300-\u036f]+"), "")
    folds = [normalizers.Replace(Regex(f"[{group}]"), text) for text, group in FOLDS.items()]
    return normalizers.Sequence([normalizers.NFD(), *folds, marks, normalizers.NFC()])


def read_byte_level(text: str, source: str) -> Any:
    """Parse a tokenizer.json, without truncation and padding, as a Hugging Face tokenizer.

    Raises DataError, its message beginning with `source`, where the tokenizer is not byte-level BPE
    over all 256 bytes, since some text would then not survive encoding and decoding.
    """
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{source}:{error.lineno}:{error.colno}: not JSON ({error.msg}); a tokenizer.json of "
            "Hugging Face tokenizers is needed"
        ) from None
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise DataError(f"{source}: not a tokenizer.json: it has no model with a vocabulary")
    stages = {stage: _collect_types(config.get(stage)) for stage in ("pre_tokenizer", "decoder")}
    if model.get("type", "BPE") != "BPE" or not all("ByteLevel" in s for s in stages.values()):
        found = [model.get("type"), *sorted(stages["pre_tokenizer"])]
        raise DataError(
            f"{source}: not a byte-level BPE tokenizer (it is {', '.join(map(str, found))}), so "
            "some text would not come back from its tokens; use one that is"
        )
    lacking = sum(character not in model["vocab"] for character in BYTE_CHARACTERS)
    if lacking:
        raise DataError(
            f"{source}: {lacking} of the 256 bytes have no token, so some text would be lost; use "
            "a tokenizer that has them all"
        )
    return _parse_tokenizer(text, source)


def _parse_tokenizer(text: str, source: str) -> Any:
    from tokenizers import Tokenizer

    try:
        inner = Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower class
        raise DataError(
            f"{source}: tokenizers {version('tokenizers')} cannot read it: {error}"
        ) from None
    inner.no_truncation()
    inner.no_padding()
    return inner


def _collect_types(stage: Any) -> set[str]:
    """Collect the types of a stage of the pipeline and of the stages nested in it."""
    if not isinstance(stage, dict):
        return set()
    inside = [*stage.get("pretokenizers", ()), *stage.get("decoders", ())]
    return {str(stage.get("type"))}.union(*map(_collect_types, inside))


_CUTS = (re.compile(r"(?<=\S)(?= \S)"), re.compile(r"(?<=\S\n)(?=[^\W\d_])"))


def split_text(parts: Iterable[str], size: int = PIECE) -> Iterator[str]:
    """Split the concatenated parts into pieces of `size` to 2 `size` characters (the last: fewer).

    Cuts are before a single space between words or, failing that, after a single newline before a
    letter: all presets begin a pre-token there, so cutting does not change the tokens. Text with
    neither for `size` characters is cut anywhere, which may change the tokens at the cut.
    """
    pending = ""
    for part in parts:
        pending += part
        start = 0
        while len(pending) - start > 2 * size:
            end = _find_cut(pending, start + size, start + 2 * size)
            yield pending[start:end]
            start = end
        pending = pending[start:]
    if pending:
        yield pending


def _find_cut(text: str, low: int, high: int) -> int:
    for boundary in _CUTS:
        if found := boundary.search(text, low, high):
            return found.start()
    return high
