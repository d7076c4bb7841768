"""Tokenizers: BPE and Unigram, read from files of several formats, or trained on text."""

from hermes.tokenizer.hugging_face import CHAT_TEMPLATE, build_tokenizer_config
from hermes.tokenizer.split_files import save_split
from hermes.tokenizer.text_decoder import TextDecoder
from hermes.tokenizer.tokenizer import Tokenizer
from hermes.tokenizer.trainer import train_tokenizer
from hermes.tokenizer.training import SPECIAL_TOKENS, build_manifest

__all__ = [
    "CHAT_TEMPLATE",
    "SPECIAL_TOKENS",
    "TextDecoder",
    "Tokenizer",
    "build_manifest",
    "build_tokenizer_config",
    "save_split",
    "train_tokenizer",
]
