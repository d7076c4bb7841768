"""Trains a vocabulary on text, and reports how it was trained."""

import hashlib
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hermes.errors import DataError, StorageError, explain_os_error
from hermes.formatting import format_count
from hermes.tokenizer.bytelevel import (
    BYTE_CHARACTERS,
    DEFAULT_PRESET,
    PIECE,
    PRESETS,
    make_normalizer,
    make_pre_tokenizer,
    split_text,
)
from hermes.tokenizer.sentencepiece_training import train_sentencepiece
from hermes.tokenizer.tokenizer_json import MOST_TOKENS

__all__ = [
    "SAMPLE_BYTES",
    "SPECIAL_TOKENS",
    "Settings",
    "TrainingReport",
    "build_manifest",
    "describe_settings",
    "record_file",
    "train_vocabulary",
]

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")

MODEL_TYPES = ("bpe", "unigram")

SAMPLE_BYTES = 10**9
# The trainer of Hugging Face tokenizers counts pairs in 32-bit signed integers, which this many
# bytes cannot overflow.
MOST_SAMPLE_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Settings:
    """The settings of a training. Raises DataError where one is out of range.

    vocab_size includes special tokens and bytes; sample_bytes: the most text read, in UTF-8.
    preset: of byte-level BPE alone, None for the default.
    """

    vocab_size: int
    model_type: str = "bpe"
    byte_fallback: bool = False
    preset: str | None = None
    normalize_nfc: bool = False
    fold_ascii: bool = False
    min_frequency: int = 2
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS
    sample_bytes: int = SAMPLE_BYTES

    def __post_init__(self) -> None:
        if self.model_type not in MODEL_TYPES:
            raise DataError(
                f"model_type {self.model_type!r} is unknown; known are {', '.join(MODEL_TYPES)}"
            )
        if self.preset is not None and not self.is_byte_level:
            raise DataError(
                f"preset {self.preset!r} belongs to byte-level BPE; a vocabulary of characters is "
                "split at spaces, so leave it out"
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise DataError(f"preset {self.preset!r} is unknown; known are {', '.join(PRESETS)}")
        names = self.special_tokens
        for name in names:
            if not name or name in BYTE_CHARACTERS or names.count(name) > 1:
                raise DataError(
                    f"special token {name!r} must be one name of several characters, given once"
                )
        has_bytes = self.is_byte_level or self.byte_fallback
        least = len(BYTE_CHARACTERS) * has_bytes + len(names)
        if self.vocab_size < least:
            needed = "256 bytes and " if has_bytes else ""
            raise DataError(
                f"vocab_size is {self.vocab_size}; {needed}"
                f"{format_count(len(names), 'special tokens')} need at least {least}"
            )
        if self.vocab_size > MOST_TOKENS:  # the trainer reserves room for all, and ends the process
            raise DataError(f"vocab_size is {self.vocab_size:,}; the most is {MOST_TOKENS:,}")
        if self.min_frequency < 1:
            raise DataError(f"min_frequency must be at least 1, got {self.min_frequency}")
        if not 1 <= self.sample_bytes <= MOST_SAMPLE_BYTES:
            raise DataError(
                f"sample_bytes is {self.sample_bytes}; it must be from 1 to {MOST_SAMPLE_BYTES}, "
                "beyond which the trainer's 32-bit counts of pairs could overflow"
            )

    @property
    def is_byte_level(self) -> bool:
        """Whether the vocabulary is one of bytes, and not of characters."""
        return self.model_type == "bpe" and not self.byte_fallback


@dataclass(frozen=True)
class TrainingReport:
    """How a tokenizer was trained.

    text_bytes: how much text was read, in UTF-8. cut: whether there was more. made: tokens.
    """

    settings: Settings
    text_bytes: int
    cut: bool
    made: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know, a sentence each."""
        sentences = []
        if self.cut:
            sentences.append(
                f"the tokenizer was trained on the first {self.text_bytes:,} bytes of the text, "
                f"within the limit of {self.settings.sample_bytes:,} that keeps memory bounded"
            )
        if self.made < self.settings.vocab_size:
            rare = f": no other pair occurs {format_count(self.settings.min_frequency, 'times')}"
            sentences.append(
                f"the text yields {self.made} tokens, fewer than the {self.settings.vocab_size} "
                f"asked for{rare if self.settings.is_byte_level else ''}"
            )
        return tuple(sentences)


class _TextSample:
    """The beginning of the texts, in pieces, up to `limit` bytes of UTF-8."""

    def __init__(self, texts: Iterable[str], limit: int):
        self._texts, self._limit = texts, limit
        self.bytes, self.cut = 0, False

    def __iter__(self) -> Iterator[str]:
        # A piece has up to 2 `length` characters of up to 4 bytes, so at least one piece fits.
        length = max(1, min(PIECE, self._limit // 8))
        for text in self._texts:
            for piece in split_text([text], length):
                size = _count_bytes(piece)
                if self.bytes + size > self._limit:
                    self.cut = True
                    return
                self.bytes += size
                yield piece


def _count_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text has U+{ord(text[error.start]):04X}, half of a surrogate pair, which is not "
            "a character; read it as UTF-8"
        ) from None


def train_vocabulary(texts: Iterable[str], settings: Settings) -> tuple[str, TrainingReport]:
    """Train a vocabulary. -> the text of tokenizer.json, the report. Raises DataError.

    Of byte-level BPE, special tokens have the first ids, then come the 256 bytes, then merges in
    order of training.
    """
    sample = _TextSample(texts, settings.sample_bytes)
    stage = make_normalizer(settings.normalize_nfc, settings.fold_ascii)
    train = _train_byte_level if settings.is_byte_level else _train_characters
    inner = train(sample, settings, stage)
    if sample.bytes == 0:
        raise DataError("there is no text to train a tokenizer on; give files that have some")
    made = inner.get_vocab_size(with_added_tokens=True)
    return inner.to_str(pretty=True), TrainingReport(settings, sample.bytes, sample.cut, made)


def _train_byte_level(sample: _TextSample, settings: Settings, stage: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, trainers

    preset = settings.preset or DEFAULT_PRESET
    # As in llama.cpp and Llama 3: a pre-token that is itself in the vocabulary skips the merges.
    inner = Tokenizer(models.BPE(ignore_merges=preset == "llama-bpe"))
    inner.pre_tokenizer = make_pre_tokenizer(preset)
    inner.decoder = decoders.ByteLevel()
    if stage is not None:  # not `if stage`: its truth value differs between versions of the library
        inner.normalizer = stage
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=list(settings.special_tokens),
        initial_alphabet=list(BYTE_CHARACTERS),
        show_progress=False,
    )
    inner.train_from_iterator(iter(sample), trainer)
    return inner


def _train_characters(sample: _TextSample, settings: Settings, stage: Any) -> Any:
    from tokenizers import Tokenizer, normalizers

    clean = map(stage.normalize_str, sample) if stage is not None else sample
    text = train_sentencepiece(
        clean,
        model_type=settings.model_type,
        vocab_size=settings.vocab_size,
        byte_fallback=settings.byte_fallback,
        special_tokens=settings.special_tokens,
    )
    inner = Tokenizer.from_str(text)
    if stage is not None:
        inner.normalizer = normalizers.Sequence([stage, inner.normalizer])
    return inner


def build_manifest(
    training: TrainingReport,
    fingerprint: str,
    inputs: Iterable[str | Path | Mapping[str, Any]],
    *,
    reading: Mapping[str, Any] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Build the JSON record of a training: inputs with hashes, settings, result, time, versions.

    inputs: files, or records of `record_file`. reading: how they were read as text. seconds: that
    the training took.
    """
    described = [one if isinstance(one, Mapping) else record_file(Path(one)) for one in inputs]
    return {
        "inputs": described,
        "settings": describe_settings(training.settings),
        **({} if reading is None else {"reading": dict(reading)}),
        "text_bytes": training.text_bytes,
        "text_cut": training.cut,
        "vocab_size": training.made,
        "warnings": list(training.warnings),
        "fingerprint": fingerprint,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **({} if seconds is None else {"seconds": round(seconds, 1)}),
        "versions": {
            "hermes-llm": _find_version("hermes-llm"),
            "tokenizers": _find_version("tokenizers"),
            **_name_trainer(training.settings),
            "python": platform.python_version(),
        },
    }


def describe_settings(settings: Settings) -> dict[str, Any]:
    """Describe what was trained; the default preset by its name."""
    described = asdict(settings)
    if settings.is_byte_level:
        described["preset"] = settings.preset or DEFAULT_PRESET
    return described


def _find_version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _name_trainer(settings: Settings) -> dict[str, str]:
    name = "sentencepiece"
    return {} if settings.is_byte_level else {name: _find_version(name)}


def record_file(path: Path) -> dict[str, Any]:
    """Record a file's size and SHA-256, None of what is no local file. Raises StorageError."""
    if not path.is_file():
        return {"path": str(path), "bytes": None, "sha256": None}
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"path": str(path), "bytes": file.tell(), "sha256": digest}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
