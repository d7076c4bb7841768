"""The tokenizer: BPE or Unigram by Hugging Face tokenizers, which is imported when first needed.

`tokenizer.json` is Hugging Face's own format; other files are converted to it when they are read.
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError
from hermes.storage.durable import write_atomically
from hermes.tokenizer.files import parse_settings, read_folder, render_tokenizer_json
from hermes.tokenizer.manifest import MANIFEST, name_manifest
from hermes.tokenizer.pipelines import Pipelines
from hermes.tokenizer.roles import Roles, read_roles
from hermes.tokenizer.round_trip import describe_losses
from hermes.tokenizer.spelling import list_pieces, read_spelling
from hermes.tokenizer.text_decoder import TextDecoder
from hermes.tokenizer.tokenizer_json import parse_tokenizer_json, read_beginning, set_template
from hermes.tokenizer.training import TrainingReport
from hermes.tokenizer.vocabulary import Vocabulary

__all__ = ["Tokenizer"]


class Tokenizer:
    """Encodes text as token ids and decodes it. Made by `load`, `from_json` or `train_tokenizer`.

    training: the report of `train_tokenizer`; None where the tokenizer was loaded. kind: in words,
    such as 'byte-level BPE'.
    """

    def __init__(
        self,
        text: str,
        source: str = "tokenizer",
        training: TrainingReport | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        """Parse the text of a tokenizer.json; `source` names it in errors. Raises DataError.

        settings: contents of the files that say which tokens begin and end a text, by name, as in
        `hermes.tokenizer.roles`.
        """
        config = parse_tokenizer_json(text, source)
        model = config["model"]
        if not model.get("type"):  # or the Rust side takes it for the first kind that fits
            kind = "BPE" if isinstance(model["vocab"], dict) else "Unigram"
            config = config | {"model": model | {"type": kind}}
            text = json.dumps(config)
        spelling = read_spelling(config, source)
        pieces = list_pieces(config["model"])
        if not pieces:
            raise DataError(f"{source}: not a tokenizer.json: its vocabulary is empty")
        self._pipelines = Pipelines(text, config, source)
        self._vocabulary = Vocabulary(self._pipelines.original, spelling)
        self._lacking = spelling.find_lacking_bytes(pieces)
        self._beginning = read_beginning(config)
        if self._beginning is not None and self.find_name(self._beginning) is None:
            raise DataError(
                f"{source}: its post_processor begins a text with token {self._beginning}, which "
                "its vocabulary lacks"
            )
        self.kind = spelling.kind
        self.training = training
        self._settings = dict(settings or {})
        self._chosen: dict[str, Any] = {}
        self.roles: Roles = self._read_roles()

    def _read_roles(self) -> Roles:
        return read_roles(self._settings, self.find_id, self.find_name, self._beginning)

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size:,} tokens, fingerprint {self.fingerprint[:12]})"

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer from a folder, or from one of the files that hold one.

        tokenizer.json, vocab.json with merges.txt, SentencePiece's tokenizer.model, or tiktoken's
        ranks; what the files beside it say of its tokens counts. Raises DataError, StorageError.
        """
        files, where = read_folder(Path(path))
        return cls.from_files(files, where)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], where: str | Path) -> "Tokenizer":
        """Read a tokenizer from the contents of files by name; where: their folder, for errors.

        Raises DataError.
        """
        text, source = render_tokenizer_json(files, str(where))
        return cls(text, source, settings=parse_settings(files, str(where)))

    @classmethod
    def from_json(
        cls, text: str, settings: Mapping[str, Mapping[str, Any]] | None = None
    ) -> "Tokenizer":
        """Parse the text of a tokenizer.json; settings: as when it is made. Raises DataError."""
        return cls(text, settings=settings)

    def replace_roles(self, *, eos: str | None = None, bos: bool | None = None) -> "Tokenizer":
        """The same tokenizer with another end of text, or with or without BOS before a text.

        eos: the name of a token. Raises DataError where there is no such token.
        """
        roles, changed = self.roles, copy.copy(self)
        if eos is not None:
            number = self.find_id(eos)
            if number is None:
                raise DataError(
                    f"the tokenizer has no token {eos!r} to end a text with; name one that it has"
                )
            stops = roles.stops | {number}
            pad = None if roles.pad in stops else roles.pad
            roles = Roles(roles.bos, number, pad, roles.adds_bos, stops)
        if bos is not None and bos != roles.adds_bos:
            if roles.bos is None:
                raise DataError("the tokenizer has no token that begins a text; leave --bos out")
            roles = Roles(roles.bos, roles.eos, roles.pad, bos, roles.stops)
        changed.roles, changed._chosen = roles, {**self._chosen}
        changed._chosen |= {k: v for k, v in (("eos", eos), ("bos", bos)) if v is not None}
        return changed

    def take_roles(self, other: "Tokenizer") -> "Tokenizer":
        """The same tokenizer with what the files beside another say; what was chosen stays."""
        changed = copy.copy(self)
        changed._settings = other._settings
        changed.roles = changed._read_roles()
        return changed.replace_roles(**self._chosen)

    def replace_json(self, text: str) -> "Tokenizer":
        """The tokenizer of another tokenizer.json, by the same files and choices."""
        return Tokenizer(text, settings=self._settings).replace_roles(**self._chosen)

    def to_json(self) -> str:
        """Render tokenizer.json, whose post-processor puts BOS before a text as this one does."""
        begin = self.bos_id if self.adds_bos else None
        if begin == self._beginning:
            return str(self._pipelines.original.to_str(pretty=True))
        named = None if begin is None else (self.get_name(begin), begin)
        config = json.loads(self._pipelines.original.to_str())
        edited = Tokenizer(json.dumps(set_template(config, named)))
        return str(edited._pipelines.original.to_str(pretty=True))

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """How it was trained: settings, inputs, time. None where it has no manifest of its own."""
        found = self._settings.get(MANIFEST)
        known = found is not None and found.get("fingerprint") == self.fingerprint
        return found if known else None

    def add_manifest(self, manifest: Mapping[str, Any]) -> "Tokenizer":
        """The same tokenizer with what `build_manifest` made."""
        changed = copy.copy(self)
        changed._settings = {**self._settings, MANIFEST: dict(manifest)}
        return changed

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json and, where it has one, its manifest beside it, each whole or not.

        Raises StorageError.
        """
        if self.manifest is not None:
            text = json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n"
            write_atomically(name_manifest(Path(path)), text.encode("utf-8"))
        write_atomically(Path(path), self.to_json().encode("utf-8"))

    def encode(self, text: str, *, special: bool = False, continued: bool = False) -> list[int]:
        """Encode a text, adding nothing to it. -> ids

        The name of a special token, such as '<|eos|>', is encoded as text unless `special`. Added
        tokens that a foreign tokenizer does not call special are found either way. continued: the
        text continues another, so that a tokenizer that marks the beginning of a text does not.
        Raises DataError for what is no text, and where it has half a surrogate pair.
        """
        return self.encode_batch([text], special=special, continued=[continued])[0]

    def encode_batch(
        self, texts: Sequence[str], *, special: bool = False, continued: Sequence[bool] = ()
    ) -> list[list[int]]:
        """Encode each text, using all cores. continued: of each text, none by default."""
        wrong = [texts] if isinstance(texts, str) else [t for t in texts if not isinstance(t, str)]
        if wrong:
            raise DataError(f"encode takes a text, encode_batch a list; got {wrong[0]!r:.40}")
        return self._pipelines.encode(texts, continued, special)

    def encode_to_arrays(
        self, texts: Sequence[str], continued: Sequence[bool] = ()
    ) -> list[NDArray[np.uint32]]:
        """As `encode_batch`, for many texts. -> of each text, a part of one array"""
        return self._pipelines.encode_to_arrays(texts, continued)

    def encode_parts(
        self, parts: Sequence[str], special: Sequence[bool], before: int | None = None
    ) -> list[list[int]]:
        """Encode the parts of one text, each by itself. -> ids of each

        special: of each part, whether names of special tokens in it are those tokens. before: the
        id that precedes them, None at the beginning. A part that follows text is encoded as its
        continuation, one that follows an added token as after that.
        """
        encoded: list[list[int]] = []
        added = self._vocabulary.added_ids
        for part, is_special in zip(parts, special, strict=True):
            after_special = before in added if before is not None else False
            (ids,) = self._pipelines.encode(
                [part], [before is not None], is_special, after_special=after_special
            )
            before = ids[-1] if ids else before
            encoded.append(ids)
        return encoded

    def can_cut(self, left: str, right: str) -> bool:
        """Whether a text may be encoded as `left` and then `right` as its continuation.

        Judged by what is near the cut; for byte-level BPE the places of `split_text` are taken.
        """
        is_byte_level = self._vocabulary.spelling.is_byte_level
        return is_byte_level or self._pipelines.can_cut(left, right)

    def decode(
        self, ids: Iterable[int], *, skip_special: bool = True, continued: bool = False
    ) -> str:
        """Decode ids; bytes that are not UTF-8 become U+FFFD. Raises DataError for other ids.

        continued: the ids continue a text, so that their first space stays.
        """
        return self.join(ids, skip_special, continued=continued).decode("utf-8", errors="replace")

    def stream(self, *, skip_special: bool = True, continued: bool = False) -> TextDecoder:
        """Make a decoder for ids that arrive one at a time; continued: as for `decode`."""
        return TextDecoder(self._vocabulary, skip_special, continued)

    def join(
        self, ids: Iterable[int], skip_special: bool = True, *, continued: bool = False
    ) -> bytes:
        """Join the bytes of ids; continued: as for `decode`. Raises DataError for unknown ids."""
        return self._vocabulary.join(ids, skip_special, continued)

    def get_token_bytes(self, token: int) -> bytes:
        """Get a token's bytes; a special token's are its name. Raises DataError for unknown ids."""
        return self._vocabulary.get_bytes(token)

    def iterate_token_bytes(self) -> Iterator[tuple[int, bytes]]:
        """Iterate over the ids that stand for text, with their bytes."""
        for token in range(self.vocab_size):
            if token not in self.special_ids and self._vocabulary.find_name(token) is not None:
                yield token, self._vocabulary.get_bytes(token)

    def get_name(self, token: int) -> str:
        """Get a token as tokenizer.json has it. Raises DataError for unknown ids."""
        self.get_token_bytes(token)  # raises for an unknown id
        return str(self.find_name(token))

    def find_name(self, token: int) -> str | None:
        """Find a token as tokenizer.json has it; None for unknown ids."""
        return self._vocabulary.find_name(token)

    @property
    def byte_lengths(self) -> NDArray[np.int32]:
        """The number of bytes of text of each id, 0 for special tokens. (V,)"""
        return self._vocabulary.byte_lengths

    def count_bytes(
        self, ids: NDArray[np.integer], counted: NDArray[np.bool_] | None = None
    ) -> int:
        """Count the bytes of text of ids: of those `counted`, the others being their context.

        A space that marks the beginning of a text, and that decoding takes away, does not count.
        """
        return self._vocabulary.count_bytes(ids, counted)

    def count_differing_ids(self, other: "Tokenizer") -> int:
        """Count the ids that have another meaning, or none, in another tokenizer."""
        return self._vocabulary.count_differing(other._vocabulary)

    @cached_property
    def losses(self) -> tuple[str, ...]:
        """What does not come back from its tokens, a sentence each; () where every text does."""
        return describe_losses(self, self._lacking)

    @property
    def vocab_size(self) -> int:
        """The largest id + 1."""
        return self._vocabulary.size

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of special tokens, which stand for no text."""
        return self._vocabulary.special_ids

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self.roles.bos

    @property
    def adds_bos(self) -> bool:
        """Whether a text begins with that token."""
        return self.roles.adds_bos

    @property
    def beginning(self) -> list[int]:
        """What a text begins with: [bos_id] or []."""
        return [] if self.bos_id is None or not self.adds_bos else [self.bos_id]

    def encode_prompt(self, prompt: str) -> list[int]:
        """Encode what a model is to continue: the ids that begin a text, and the prompt's.

        An empty prompt becomes the token after which a text of the training data began, and is
        empty where there is none.
        """
        ids = self.beginning + self.encode(prompt)
        start = self.bos_id if self.eos_id is None else self.eos_id
        return ids if ids or start is None else [start]

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text."""
        return self.roles.eos

    @property
    def pad_id(self) -> int | None:
        """The token that pads a row, never one that ends a text."""
        return self.roles.pad

    @cached_property
    def unk_id(self) -> int | None:
        """The token that stands for what the vocabulary lacks; None where it lacks nothing."""
        model = self._pipelines.original.model
        if hasattr(model, "unk_token"):
            return None if model.unk_token is None else self.find_id(model.unk_token)
        number = json.loads(self._pipelines.original.to_str())["model"].get("unk_id")
        return None if number is None else int(number)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens at which a completion ends: end of text and end of a chat turn."""
        return self.roles.stops

    def find_special_id(self, *names: str) -> int | None:
        """Find the id of the first of these names that is an added token."""
        return self._vocabulary.find_added(*names)

    def find_id(self, name: str) -> int | None:
        """Find the id of a token by its name in tokenizer.json."""
        return self._vocabulary.find_id(name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides ids: vocabulary, merges, added tokens, normalizer, splits."""
        config = json.loads(self._pipelines.original.to_str())
        model = config["model"]
        deciding = {
            "vocab": model["vocab"],
            "merges": [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", ())],
            "ignore_merges": model.get("ignore_merges", False),
            "added_tokens": config["added_tokens"],
            "normalizer": config["normalizer"],
            "pre_tokenizer": config["pre_tokenizer"],
        }
        if not self._vocabulary.spelling.is_byte_level:
            deciding |= {"byte_fallback": model["byte_fallback"], "unk_id": model.get("unk_id")}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
