"""Byte-level BPE tokenizers: read from tokenizer.json, or trained on text."""

from hermes.tokenizer.tokenizer import (
    CHAT_TEMPLATE,
    SPECIAL_TOKENS,
    TextDecoder,
    Tokenizer,
    build_tokenizer_config,
    train_tokenizer,
)
from hermes.tokenizer.training import build_manifest

__all__ = [
    "CHAT_TEMPLATE",
    "SPECIAL_TOKENS",
    "TextDecoder",
    "Tokenizer",
    "build_manifest",
    "build_tokenizer_config",
    "train_tokenizer",
]
