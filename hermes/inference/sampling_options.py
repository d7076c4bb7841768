"""Sampling as users give it, in text where they know no ids, over a checkpoint's own."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any
from weakref import WeakKeyDictionary

from hermes.arguments import convert_value
from hermes.errors import HermesError
from hermes.inference.sampling import Sampling
from hermes.inference.sampling_defaults import FIELDS, choose_sampling
from hermes.tokenizer import Tokenizer

__all__ = ["DRY_BREAKERS", "SAMPLING_OPTIONS", "make_sampling"]

# What a user gives as text, and the field of Sampling that it becomes.
TEXTS = {"ban": "banned", "logit_bias": "logit_bias", "dry_breaker": "dry_breakers"}
SAMPLING_OPTIONS = (
    *(field.name for field in fields(Sampling) if field.name not in TEXTS.values()),
    *TEXTS,
)
# As llama.cpp and text-generation-webui have them.
DRY_BREAKERS = ("\n", ":", '"', "*")
# Found once for a tokenizer: a vocabulary of 151,936 takes 0.2 s, as long as many a text.
_found_tokens: WeakKeyDictionary[Tokenizer, dict[tuple[str, ...], tuple[int, ...]]] = (
    WeakKeyDictionary()
)
MOST_FOUND = 16  # lists of texts whose tokens are kept, the last ones


def make_sampling(
    tokenizer: Tokenizer | None, config: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[Sampling, str]:
    """The sampling that is given; what is None of it as `choose_sampling` has it.

    tokenizer: None where `given` has no text. given: by the names of SAMPLING_OPTIONS. ban: words,
    each also behind a space. logit_bias: 'ID=NUMBER' or a mapping. dry_breaker: tokens that have
    one of these strings break repetitions; by default DRY_BREAKERS do. -> the sampling, and a
    sentence about what the checkpoint's file decided, '' for nothing. Raises HermesError.
    """
    sampling, said = choose_sampling(config, given)
    own = {
        name: value
        for name, value in given.items()
        if value is not None and name not in TEXTS and name not in FIELDS
    }
    bias = given.get("logit_bias") or {}
    own["logit_bias"] = bias if isinstance(bias, Mapping) else dict(map(_parse_bias, bias))
    if words := given.get("ban"):
        own["banned"] = _encode_banned(_require(tokenizer), words)
    if own.get("dry_multiplier"):
        texts = given.get("dry_breaker") or DRY_BREAKERS
        own["dry_breakers"] = _find_tokens(_require(tokenizer), texts)
    return replace(sampling, **own), said


def _require(tokenizer: Tokenizer | None) -> Tokenizer:
    assert tokenizer is not None, "who gives text has a tokenizer"
    return tokenizer


def _parse_bias(text: str) -> tuple[int, float]:
    token, equals, value = text.partition("=")
    try:
        if equals:
            return int(token), float(value)
    except ValueError:
        pass
    raise HermesError(f"--logit-bias needs ID=NUMBER, such as 50256=-100, got {text!r}")


def _encode_banned(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The ids of each word at the beginning of a text and behind a space."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        convert_value("a banned word", word, str)
        if not word:
            raise HermesError("--ban needs a word, got an empty one")
        for form in (word, f" {word}"):
            found[tuple(tokenizer.encode(form))] = None
    return tuple(found)


def _find_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[int, ...]:
    """The ids of tokens whose bytes have one of these texts in them."""
    found = _found_tokens.setdefault(tokenizer, {})
    key = tuple(texts)
    ids = found.get(key)
    if ids is None:
        wanted = [text.encode() for text in texts]
        found[key] = ids = tuple(
            token
            for token, spelt in tokenizer.iterate_token_bytes()
            if any(text in spelt for text in wanted)
        )
        while len(found) > MOST_FOUND:
            found.pop(next(iter(found)), None)  # None: others may be at it, in other threads
    return ids
