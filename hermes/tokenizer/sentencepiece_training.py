"""Trains BPE and Unigram on characters, by the library `sentencepiece`."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence

from hermes.errors import DataError, HermesError
from hermes.tokenizer.sentencepiece_model import convert_sentencepiece

__all__ = ["train_sentencepiece"]

# Tokens of their own, so that no word is joined to the one on the next line. (As in Gemma.)
BREAKS = ("\n", "\n\n", "\n\n\n", "\t", "\t\t")
LONGEST = 1 << 22  # bytes of a piece; the library leaves longer ones out
# The library sums over as many threads as this, in an order that then is always the same.
THREADS = 16


def train_sentencepiece(
    texts: Iterable[str],
    *,
    model_type: str,
    vocab_size: int,
    byte_fallback: bool,
    special_tokens: Sequence[str],
) -> str:
    """Train a vocabulary. -> the text of tokenizer.json

    Id 0 is <unk>; then come special tokens, line breaks and tabs, bytes where byte_fallback, and
    the model's own. Text is neither normalized nor marked at its beginning, so that all of it comes
    back. Raises DataError, and HermesError where the library is not installed.
    """
    try:
        from sentencepiece import SentencePieceTrainer
    except ImportError:
        raise HermesError(
            "training this kind of tokenizer needs SentencePiece; pip install "
            "'hermes-llm[sentencepiece]'"
        ) from None
    failed: list[BaseException] = []

    def iterate() -> Iterator[str]:
        # The library passes on the words of an error, but not the error.
        try:
            yield from texts
        except BaseException as error:
            failed.append(error)
            raise

    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iterate(),
            model_writer=written,
            model_type=model_type,
            vocab_size=vocab_size,
            byte_fallback=byte_fallback,
            control_symbols=list(special_tokens),
            user_defined_symbols=list(BREAKS),
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.9995 if byte_fallback else 1.0,
            split_digits=True,
            hard_vocab_limit=False,
            max_sentence_length=LONGEST,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if failed:
            raise failed[0] from None
        text = " ".join(str(error).split())
        if "sentences_.empty()" in text:
            raise DataError(
                "there is no text to train a tokenizer on; give files that have some"
            ) from None
        raise DataError(
            f"SentencePiece cannot train {vocab_size:,} tokens on this text: {text}; choose "
            "another vocab_size"
        ) from None
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config = convert_sentencepiece(written.getvalue(), settings, "the trained model")
    return json.dumps(config, ensure_ascii=False)
