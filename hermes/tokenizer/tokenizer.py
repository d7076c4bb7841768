"""The tokenizer: byte-level BPE by Hugging Face tokenizers, which is imported when first needed.

Every byte has a token, so every text can be encoded, and decodes to itself unless the tokenizer
has a normalizer. `tokenizer.json` is Hugging Face's own format.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError, StorageError
from hermes.storage.durable import write_atomically
from hermes.tokenizer.bytelevel import BYTE_CHARACTERS, read_byte_level
from hermes.tokenizer.training import (
    SAMPLE_BYTES,
    SPECIAL_TOKENS,
    Settings,
    TrainingReport,
    train_vocabulary,
)

__all__ = [
    "CHAT_TEMPLATE",
    "SPECIAL_TOKENS",
    "TextDecoder",
    "Tokenizer",
    "build_tokenizer_config",
    "train_tokenizer",
]

# The names of special tokens, hermes's own first, then those of other tokenizers; the first found
# counts.
BOS = ("<|bos|>", "<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<|endoftext|>")
EOS = ("<|eos|>", "</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>")
PAD = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, in Jinja as Hugging Face reads it."""

# Hugging Face's model_max_length of a tokenizer without a limit.
NO_LIMIT = int(1e30)


class TextDecoder:
    """Decodes tokens one at a time into whole characters, which join to `Tokenizer.decode`."""

    def __init__(self, tokenizer: "Tokenizer", skip_special: bool):
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Decode the characters that this token completes; '' in the middle of one."""
        return self._decoder.decode(self._tokenizer.join([token], self._skip_special))

    def flush(self) -> str:
        """Return an incomplete character as U+FFFD, else ''; the decoder can be used again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class Tokenizer:
    """Encodes text as token ids and decodes it. Made by `load`, `from_json` or `train_tokenizer`.

    training: the report of `train_tokenizer`; None where the tokenizer was loaded.
    """

    def __init__(
        self, text: str, source: str = "tokenizer", training: TrainingReport | None = None
    ):
        """Parse the text of a tokenizer.json; `source` names it in errors. Raises DataError."""
        self._inner = read_byte_level(text, source)
        # Text that spells the name of a special token is encoded as text. (In the library, this
        # flag means: encode special tokens as if they were ordinary text.)
        self._inner.encode_special_tokens = True
        self.training = training
        vocabulary: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
        self._added = {
            token.content: (number, bool(token.special))
            for number, token in self._inner.get_added_tokens_decoder().items()
        }
        self._bytes: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
        byte_of = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
        for token, number in vocabulary.items():
            spelt = token not in self._added and all(c in byte_of for c in token)
            self._bytes[number] = (
                bytes(map(byte_of.__getitem__, token)) if spelt else token.encode()
            )

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} tokens, fingerprint {self.fingerprint[:12]})"

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json, or the one in a folder. Raises DataError, StorageError."""
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        try:
            return cls(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError:
            raise DataError(
                f"{file}: no such tokenizer; make one with 'hermes train-tokenizer', or while "
                "training with --train-tokenizer"
            ) from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: not UTF-8 at byte {error.start}, so it is not a tokenizer"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror}") from error

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Parse the text of a tokenizer.json. Raises DataError."""
        return cls(text)

    def to_json(self) -> str:
        """Render tokenizer.json."""
        return str(self._inner.to_str(pretty=True))

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, whole or not at all. Raises StorageError."""
        write_atomically(Path(path), self.to_json().encode("utf-8"))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Encode a text, adding nothing to it. -> ids

        The name of a special token, such as '<|eos|>', is encoded as text unless `special`. Added
        tokens that a foreign tokenizer does not call special are found either way. Raises DataError
        where the text has half a surrogate pair.
        """
        return self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Encode each text, using all cores."""
        inner = self._with_special if special else self._inner
        try:
            encodings = inner.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            for text in texts:
                if found := next((c for c in text if "\ud800" <= c <= "\udfff"), None):
                    raise DataError(
                        f"the text has U+{ord(found):04X}, half of a surrogate pair, which is not "
                        "a character; read it as UTF-8"
                    ) from None
            raise
        return [encoding.ids for encoding in encodings]

    @cached_property
    def _with_special(self) -> Any:
        from tokenizers import Tokenizer as Inner

        return Inner.from_str(self._inner.to_str())

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Decode ids; bytes that are not UTF-8 become U+FFFD. Raises DataError for unknown ids."""
        return self.join(ids, skip_special).decode("utf-8", errors="replace")

    def stream(self, *, skip_special: bool = True) -> TextDecoder:
        """Make a decoder for ids that arrive one at a time."""
        return TextDecoder(self, skip_special)

    def join(self, ids: Iterable[int], skip_special: bool = True) -> bytes:
        """Join the bytes of ids. Raises DataError for unknown ids."""
        skipped = self.special_ids if skip_special else frozenset()
        return b"".join(self.get_token_bytes(int(i)) for i in ids if int(i) not in skipped)

    def get_token_bytes(self, token: int) -> bytes:
        """Get a token's bytes; a special token's are its name. Raises DataError for unknown ids."""
        found = self._bytes[token] if 0 <= token < len(self._bytes) else None
        if found is None:
            raise DataError(f"token id {token} is not in the tokenizer's vocabulary")
        return found

    @cached_property
    def byte_lengths(self) -> NDArray[np.int32]:
        """The number of bytes of text of each id, 0 for special tokens. (V,)"""
        lengths = np.array([len(spelt or b"") for spelt in self._bytes], np.int32)
        lengths[list(self.special_ids)] = 0
        return lengths

    def count_differing_ids(self, other: "Tokenizer") -> int:
        """Count the ids that have another meaning, or none, in another tokenizer."""
        others = [*other._bytes, *[None] * len(self._bytes)]
        both = zip(self._bytes, others, strict=False)
        return sum(own is not None and own != theirs for own, theirs in both)

    @property
    def vocab_size(self) -> int:
        """The largest id + 1."""
        return len(self._bytes)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of special tokens, which stand for no text."""
        return frozenset(number for number, special in self._added.values() if special)

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self.find_special_id(*BOS)

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text."""
        return self.find_special_id(*EOS)

    @property
    def pad_id(self) -> int | None:
        """The token that pads a row, never the one that ends a text."""
        return self.find_special_id(*PAD)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens at which a completion ends: end of text and end of a chat turn."""
        found = (self.eos_id, *(self.find_special_id(name) for name in END_OF_TURN))
        return frozenset(number for number in found if number is not None)

    def find_special_id(self, *names: str) -> int | None:
        """Find the id of the first of these names that is an added token."""
        return next((self._added[name][0] for name in names if name in self._added), None)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides ids: vocabulary, merges, added tokens, normalizer, splits."""
        config = json.loads(self._inner.to_str())
        model = config["model"]
        deciding = {
            "vocab": model["vocab"],
            "merges": [m.split(" ") if isinstance(m, str) else m for m in model["merges"]],
            "ignore_merges": model.get("ignore_merges", False),
            "added_tokens": config["added_tokens"],
            "normalizer": config["normalizer"],
            "pre_tokenizer": config["pre_tokenizer"],
        }
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def train_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
    preset: str = "gpt-2",
    normalize_nfc: bool = False,
    fold_ascii: bool = False,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    sample_bytes: int = SAMPLE_BYTES,
) -> Tokenizer:
    """Train a byte-level BPE of `vocab_size` tokens, including special tokens and the 256 bytes.

    Deterministic in texts and settings. texts: read once, in pieces, up to sample_bytes of UTF-8.
    preset: how text is split before merging: 'gpt-2', 'llama-bpe' or 'qwen2'. If the text was cut
    or yields fewer tokens, tokenizer.training.warnings says so. Raises DataError. Source: Sennrich
    et al. 2016, arXiv:1508.07909; Radford et al. 2019 (bytes).
    """
    settings = Settings(
        vocab_size=vocab_size,
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


def build_tokenizer_config(
    tokenizer: Tokenizer, *, max_seq_len: int | None = None
) -> dict[str, Any]:
    """Build tokenizer_config.json, which Hugging Face reads beside tokenizer.json."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": NO_LIMIT if max_seq_len is None else max_seq_len,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    for role, number in ids.items():
        if number is not None:
            config[f"{role}_token"] = tokenizer.get_token_bytes(number).decode()
    if None not in (
        tokenizer.find_special_id("<|im_start|>"),
        tokenizer.find_special_id("<|im_end|>"),
    ):
        config["chat_template"] = CHAT_TEMPLATE
    return config
