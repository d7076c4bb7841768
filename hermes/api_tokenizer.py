"""The public function that trains a tokenizer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.data import expand_paths
from hermes.data.bad_records import BadRecords
from hermes.data.document_reader import TextFormat
from hermes.stage_display import show_progress
from hermes.stages import report_stage
from hermes.tokenizer import SPECIAL_TOKENS, Tokenizer
from hermes.tokenizer.training import Settings
from hermes.training.new_tokenizer import TokenizerTraining

__all__ = ["TOKENIZER_ARGUMENTS", "train_tokenizer"]

# Of `train_tokenizer`, by the options of its command that have other names.
TOKENIZER_ARGUMENTS = {
    "input": "inputs",
    "nfc": "normalize_nfc",
    "format": "file_format",
    "special_token": "special_tokens",
}


@partial(name_own_arguments, renamed=TOKENIZER_ARGUMENTS)
def train_tokenizer(
    inputs: str | Path | Sequence[str | Path],
    *,
    vocab_size: int = 32_000,
    model_type: str = "bpe",
    byte_fallback: bool = False,
    preset: str | None = None,
    normalize_nfc: bool = False,
    fold_ascii: bool = False,
    text_field: str = "text",
    file_format: str | None = None,
    documents: str = "file",
    no_header: bool = False,
    skip_bad_records: bool = False,
    max_bad_records: float = 0.01,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """Train a tokenizer, byte-level BPE by default, on text in any form that `train` reads.

    model_type: 'bpe', which with byte_fallback merges characters instead of bytes, or 'unigram';
    those of characters are SentencePiece's. preset: how byte-level BPE splits text before merging,
    'llama-bpe' (the default), 'gpt-2' or 'qwen2'. special_tokens: the names of all of them. Raises
    DataError.
    """
    values = convert_arguments(train_tokenizer, locals())
    bad = BadRecords(values["max_bad_records"]) if skip_bad_records else None
    report_stage("training a tokenizer")
    training = TokenizerTraining(
        TextFormat(text_field, file_format, documents, no_header),
        Settings(
            vocab_size=values["vocab_size"],
            model_type=values["model_type"],
            byte_fallback=values["byte_fallback"],
            preset=preset,
            normalize_nfc=values["normalize_nfc"],
            fold_ascii=values["fold_ascii"],
            special_tokens=tuple(special_tokens),
        ),
    )
    with show_progress(None):
        learned = training.train(expand_paths(inputs), bad)
        report_stage("")
    return learned
