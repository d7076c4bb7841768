"""Grammars that a text must follow, such as JSON of a schema: which tokens may come next.

Masks are computed by llguidance, on the host, from the bytes of the tokenizer's tokens: so every
backend has them, and every kind of tokenizer.
"""

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError, HermesError, StorageError, explain_os_error
from hermes.storage.plain_json import load_json
from hermes.storage.reading import read_bounded
from hermes.tokenizer import Tokenizer

__all__ = [
    "Grammar",
    "GrammarMatcher",
    "compile_json_schema",
    "compile_lark",
    "read_json_schema",
    "render_json_rule",
]

# What may stand between the tokens of JSON, so that no text has spaces without end: the
# forms that json.dumps writes, indented or not.
WHITESPACE = r"\x20|\n{1,2}[ \t]{0,20}"
# A state of the lexer takes some 2 kB.
MOST_STATES = 50_000


class Grammar:
    """A compiled grammar over the tokens of one tokenizer; any number of texts may follow it."""

    def __init__(self, matcher: Any, vocab_size: int):
        self._matcher, self._vocab_size = matcher, vocab_size

    def start(self) -> "GrammarMatcher":
        """Begin a text."""
        return GrammarMatcher(self._matcher.deep_copy(), self._vocab_size)


class GrammarMatcher:
    """One text that follows a grammar."""

    def __init__(self, matcher: Any, vocab_size: int):
        self._matcher, self._vocab_size = matcher, vocab_size

    @property
    def is_complete(self) -> bool:
        """Whether the text is whole, and nothing may follow it."""
        return bool(self._matcher.is_stopped())

    def mask(self, x: NDArray[np.float64], endings: Collection[int]) -> None:
        """Set the logits of tokens that may not come next to -inf, in place. (V,)

        endings: tokens that end the text, which may come where it is whole. Raises HermesError
        where the grammar is too intricate for the text so far.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.zeros(len(x), bool)
        count = min(len(x), self._vocab_size)
        allowed[:count] = np.unpackbits(bits, bitorder="little", count=count)
        ends = [token for token in endings if token < len(x)]
        allowed[ends] = self._matcher.is_accepting()
        x[~allowed] = -np.inf

    def append(self, token: int) -> None:
        """Add a token that may come next. Raises HermesError as `mask`."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise HermesError(f"the text's grammar: {_shorten(self._matcher.get_error())}")


def compile_json_schema(tokenizer: Tokenizer, schema: Any) -> Grammar:
    """Compile the grammar of the JSON texts of a JSON schema. Raises DataError, naming what it is.

    A keyword that cannot be promised, such as uniqueItems, is refused.
    """
    if not isinstance(schema, Mapping):
        raise DataError(f"a JSON schema is an object, got {schema!r:.60}")
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"the JSON schema is no JSON: {error}") from None
    return _compile_schema(tokenizer, text)


def compile_lark(tokenizer: Tokenizer, text: str) -> Grammar:
    """Compile a grammar in llguidance's form of Lark. Raises DataError, saying what is wrong."""
    return _compile(tokenizer, text, "the grammar")


def render_json_rule(schema: Any) -> str:
    """The right side of a rule of a Lark grammar for the JSON texts of a schema."""
    if isinstance(schema, Mapping):
        schema = {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return f"%json {json.dumps(schema)}"


def read_json_schema(path: str | Path) -> Any:
    """Read a JSON schema from a file. Raises DataError, StorageError.

    A text of JSON in place of the file's name is told as such: it is an object in Python alone.
    """
    if str(path).lstrip()[:1] in ("{", "["):
        raise DataError(
            f"{str(path)[:60]!r} is the text of a JSON schema, not a file's name; write it to a "
            "file and give that, or in Python give the schema as a dict"
        )
    try:
        return load_json(read_bounded(Path(path)))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON schema: {str(error)[:100]}") from None


@lru_cache(maxsize=64)
def _compile_schema(tokenizer: Tokenizer, text: str) -> Grammar:
    llguidance = _import_llguidance()
    options = {"whitespace_pattern": WHITESPACE}
    try:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)
    except ValueError as error:  # as of a number beyond float64
        raise DataError(f"the JSON schema cannot be followed: {_shorten(str(error))}") from None
    return _compile(tokenizer, grammar, "the JSON schema")


def _compile(tokenizer: Tokenizer, grammar: str, what: str) -> Grammar:
    llguidance = _import_llguidance()
    limits = llguidance.LLParserLimits(max_lexer_states=MOST_STATES, verbose_errors=False)
    matcher = llguidance.LLMatcher(
        _convert_tokenizer(tokenizer), grammar, log_level=0, limits=limits
    )
    if matcher.is_error():
        raise DataError(f"{what} cannot be followed: {_shorten(matcher.get_error())}")
    return Grammar(matcher, tokenizer.vocab_size)


def _import_llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise HermesError(
            "JSON schemas and forced tool calls need llguidance; pip install 'hermes-llm[serve]'"
        ) from None
    return llguidance


@lru_cache(maxsize=4)
def _convert_tokenizer(tokenizer: Tokenizer) -> Any:
    """The tokenizer as llguidance has it: the bytes of each token."""
    llguidance = _import_llguidance()
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_TokenBytes(tokenizer)))


class _TokenBytes:
    """What llguidance asks of a tokenizer. Its own end of text is one that no model chooses.

    Which tokens end a text is the request's matter, so `GrammarMatcher.mask` decides about those.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.vocab_size
        self.tokens = [b""] * tokenizer.vocab_size + [b"<end>"]
        for token, spelt in tokenizer.iterate_token_bytes():
            self.tokens[token] = spelt
        for token in tokenizer.special_ids:
            self.tokens[token] = tokenizer.get_token_bytes(token)
        self.special_token_ids = [*sorted(tokenizer.special_ids), self.eos_token_id]

    def __call__(self, text: str) -> list[int]:
        """Encode a text that the grammar forces, so that it gets the tokens of training data."""
        if not isinstance(text, str):
            raise TypeError("only whole characters are encoded")  # asks llguidance for such
        return self._tokenizer.encode(text, continued=True)


def _shorten(message: str) -> str:
    first = " ".join(message.split())
    return first if len(first) <= 200 else f"{first[:197]}..."
