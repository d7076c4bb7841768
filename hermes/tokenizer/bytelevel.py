"""Byte-level BPE: alphabet, pre-tokenizers and normalizers, and where text may be cut.

Hugging Face tokenizers is a library that is imported only when a function needs it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hermes.errors import DataError

__all__ = [
    "BYTE_CHARACTERS",
    "DEFAULT_PRESET",
    "PRESETS",
    "describe_pre_tokenizer",
    "make_bpe_json",
    "make_byte_level_json",
    "make_normalizer",
    "make_pre_tokenizer",
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

DEFAULT_PRESET = "llama-bpe"
"""One that llama.cpp and Ollama know by its digest."""

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


def describe_pre_tokenizer(preset: str) -> dict[str, Any]:
    """Describe the pre-tokenizer of a preset as tokenizer.json has it."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if preset == "gpt-2":
        return byte_level | {"use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": PRESETS[preset]}, "behavior": "Isolated"}
    stages = [split | {"invert": False}, byte_level | {"use_regex": False}]
    return {"type": "Sequence", "pretokenizers": stages}


def make_byte_level_json(
    vocabulary: Mapping[str, int], merges: Sequence[str], settings: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Make the contents of tokenizer.json from those of vocab.json and merges.txt.

    settings: tokenizer_config.json, which tells Qwen 2's from GPT-2's. Raises DataError where the
    vocabulary is of another kind.
    """
    lines = [line for line in merges if line and not line.startswith("#version")]
    pairs = [line.split(" ") for line in lines]
    if BYTE_CHARACTERS[ord(" ")] not in vocabulary or any(len(pair) != 2 for pair in pairs):
        raise DataError(
            f"{source}: not the vocabulary of a byte-level BPE tokenizer; give its tokenizer.json"
        )
    is_qwen = str(settings.get("tokenizer_class")).startswith("Qwen2")
    pre_tokenizer = describe_pre_tokenizer("qwen2" if is_qwen else "gpt-2")
    if settings.get("add_prefix_space") and not is_qwen:
        pre_tokenizer["add_prefix_space"] = True
    return make_bpe_json(vocabulary, pairs, pre_tokenizer, nfc=is_qwen)


def make_bpe_json(
    vocabulary: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    pre_tokenizer: Mapping[str, Any],
    *,
    nfc: bool,
    added_tokens: Sequence[Mapping[str, Any]] = (),
    post_processor: Mapping[str, Any] | None = None,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """Make the contents of a byte-level BPE's tokenizer.json.

    ignore_merges: a whole pre-token that is in the vocabulary is taken before merging.
    """
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added_tokens),
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": dict(vocabulary),
            "merges": merges,
        },
    }  # fmt: skip


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
