"""Trains a tokenizer on text."""

from collections.abc import Iterable, Sequence

from hermes.errors import DataError
from hermes.tokenizer.tokenizer import Tokenizer
from hermes.tokenizer.training import SAMPLE_BYTES, SPECIAL_TOKENS, Settings, train_vocabulary

__all__ = ["train_tokenizer"]


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    model_type: str = "bpe",
    byte_fallback: bool = False,
    preset: str | None = None,
    normalize_nfc: bool = False,
    fold_ascii: bool = False,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    sample_bytes: int = SAMPLE_BYTES,
) -> Tokenizer:
    """Train a tokenizer of `vocab_size` tokens, including special tokens and bytes.

    Deterministic in texts and settings. texts: read once, in pieces, up to sample_bytes of UTF-8.
    model_type, byte_fallback: 'bpe' merges bytes, with byte_fallback characters, of which the rare
    ones are spelt by byte tokens; 'unigram' is SentencePiece's model of characters, whose rare ones
    are unknown without byte_fallback. preset: how byte-level BPE splits text before merging,
    'gpt-2', 'llama-bpe' (the default) or 'qwen2'; the others split at spaces, as SentencePiece
    does, which trains them. If the text was cut or yields fewer tokens,
    tokenizer.training.warnings says so. Raises DataError, and HermesError where SentencePiece is
    not installed.

    Source: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (bytes); Kudo 2018,
    arXiv:1804.10959 (Unigram).
    """
    settings = Settings(
        vocab_size=vocab_size,
        model_type=model_type,
        byte_fallback=byte_fallback,
        preset=preset,
        normalize_nfc=normalize_nfc,
        fold_ascii=fold_ascii,
        min_frequency=min_frequency,
        special_tokens=tuple(special_tokens),
        sample_bytes=sample_bytes,
    )
    text, training = train_vocabulary(texts, settings)
    tokenizer = Tokenizer(text, training=training)
    for name in settings.special_tokens:
        if tokenizer.find_special_id(name) in tokenizer.encode(name):
            raise DataError(
                f"special token {name!r} is also a word of the text; choose a name with marks in "
                f"it, such as '<|{name}|>'"
            )
    return tokenizer
