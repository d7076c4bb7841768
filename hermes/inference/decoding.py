"""Decoding of one text: a prefill of the prompt, then one token at a time over the KV cache.

Many texts at once are the work of `engine`, which gives each the tokens that it has here.
"""

import warnings
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.arguments import convert_value
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.inference.grammar import Grammar
from hermes.inference.sampler import Choice, Sampler
from hermes.inference.sampling import Sampling
from hermes.interface import PREFILL_CHUNK, Decoder, Model, ReadsChunks, WritesAhead

__all__ = [
    "CONTEXT_OVERFLOWS",
    "Completion",
    "check_lengths",
    "check_prompt",
    "check_stop_ids",
    "choose_prefill_chunk",
    "collect_completion",
    "generate_choices",
    "generate_tokens",
    "shift_context",
    "warn_of_full_context",
]

CONTEXT_OVERFLOWS = ("stop", "slide")


@dataclass(frozen=True)
class Completion:
    """The tokens that followed a prompt, without the one that ended them.

    finish_reason: 'stop' at a stop token, 'length' at max_tokens or at the end of the context.
    """

    tokens: tuple[int, ...]
    finish_reason: str


def check_prompt(prompt: object) -> None:
    """Refuse what is neither a text nor ids, such as bytes. Raises HermesError."""
    if isinstance(prompt, bytes | bytearray) or not isinstance(prompt, Iterable):
        raise HermesError(f"a prompt must be a text or token ids, got {prompt!r:.40}")


def check_stop_ids(stop_ids: Iterable[int], vocab_size: int) -> None:
    """Refuse numbers that no token has. Raises HermesError."""
    for one in stop_ids:
        if one < 0:
            raise HermesError(f"stop_ids must be at least 0, got {one}")
        if one >= vocab_size:
            raise HermesError(f"stop_ids must be below the {vocab_size:,} of the tokens, got {one}")


def generate_tokens(
    model: Model,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    completion: int = 0,
    stop: Collection[int] = (),
    vocab_size: int | None = None,
    context_overflow: str = "stop",
) -> Generator[int, None, str]:
    """Yield the ids that follow `prompt`; the generator returns the finish reason.

    Arguments are those of `generate_choices`. Raises HermesError.
    """
    choices = generate_choices(
        model,
        prompt,
        max_tokens=max_tokens,
        sampling=sampling,
        seed=seed,
        completion=completion,
        stop=stop,
        vocab_size=vocab_size,
        context_overflow=context_overflow,
    )
    return _yield_ids(choices)


def _yield_ids(choices: Generator[Choice, None, str]) -> Generator[int, None, str]:
    while True:
        try:
            choice = next(choices)
        except StopIteration as end:
            return str(end.value)
        yield choice.token


def generate_choices(
    model: Model,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    completion: int = 0,
    stop: Collection[int] = (),
    vocab_size: int | None = None,
    context_overflow: str = "stop",
    logprobs: int | None = None,
    grammar: Grammar | None = None,
) -> Generator[Choice, None, str]:
    """Yield the tokens that follow `prompt` with their log-probabilities; return why it ended.

    Stops at a token of `stop`, after max_tokens, where the text is whole by its grammar, or where
    the context of max_seq_len is full, which warns; with context_overflow 'slide' it goes on there
    from the last half of the context.
    completion: the number of the completion, which names its random stream. vocab_size: sample only
    ids below this, where the model has padding rows (None: all). Raises HermesError.
    """
    max_tokens = convert_value("max_tokens", max_tokens, int)
    seed = convert_value("seed", seed, int)
    tokens = check_lengths(model.spec.max_seq_len, prompt, max_tokens, context_overflow)
    sampler = Sampler(
        sampling,
        prompt,
        seed=seed,
        completion=completion,
        endings=stop,
        vocab_size=vocab_size,
        logprobs=logprobs,
        grammar=grammar,
    )
    return _decode_tokens(model, tokens, max_tokens, sampler, stop, context_overflow)


def check_lengths(
    longest: int, prompt: Sequence[int], max_tokens: int, context_overflow: str
) -> list[int]:
    """The tokens to begin with: the prompt, or under 'slide' as much of its end as fits.

    longest: the tokens that a row may have. Raises HermesError.
    """
    if max_tokens < 1:
        raise HermesError(f"max_tokens must be at least 1, got {max_tokens}")
    if context_overflow not in CONTEXT_OVERFLOWS:
        raise HermesError(
            f"context_overflow is {context_overflow!r}; it must be one of "
            f"{', '.join(CONTEXT_OVERFLOWS)}"
        )
    if len(prompt) > longest and context_overflow == "stop":
        raise HermesError(
            f"the prompt has {len(prompt)} tokens, more than the model's max_seq_len {longest}; "
            "shorten it"
        )
    if not prompt:
        raise HermesError(
            "the prompt is empty and the tokenizer has no token that begins a text; give a prompt"
        )
    return list(prompt[-longest:])


def shift_context(tokens: Sequence[int], longest: int) -> list[int]:
    """What is read again where a context of `longest` tokens is full: the last half of it."""
    return list(tokens[-max(longest // 2, 1) :])


def _decode_tokens(
    model: Model,
    tokens: list[int],
    max_tokens: int,
    sampler: Sampler,
    stop: Collection[int],
    context_overflow: str,
) -> Generator[Choice, None, str]:
    longest = model.spec.max_seq_len
    capacity = min(longest, len(tokens) + max_tokens - 1)
    decoder, chunk = model.decoder(1, capacity), choose_prefill_chunk(model)
    logits, made = _read_prompt(decoder, tokens, chunk), 0
    while True:
        # The last token that a context has room for is chosen, and not read.
        count = min(max_tokens - made, longest - len(tokens) + 1)
        for choice in _iterate_choices(decoder, logits[0], sampler, count, model.spec.vocab_size):
            if choice.token in stop:
                return "stop"
            yield choice
            made += 1
            tokens.append(choice.token)
            if sampler.is_complete:
                return "stop"
        if made == max_tokens:
            return "length"
        if context_overflow == "stop":
            warn_of_full_context(longest, made, max_tokens)
            return "length"
        tokens = shift_context(tokens, longest)
        decoder = model.decoder(1, capacity)
        logits = _read_prompt(decoder, tokens, chunk)


def _iterate_choices(
    decoder: Decoder, logits: NDArray[np.floating], sampler: Sampler, count: int, vocab_size: int
) -> Iterator[Choice]:
    """Choose `count` tokens, on the device as soon as nothing of the choice needs the host. (V,)"""
    choice = sampler.choose(logits)
    yield choice
    for left in range(count - 1, 0, -1):
        settings = sampler.describe_choice() if isinstance(decoder, WritesAhead) else None
        if settings is not None and isinstance(decoder, WritesAhead):
            uniforms, limit = sampler.iterate_uniforms(), sampler.limit_vocabulary(vocab_size)
            for token in decoder.write_ahead(choice.token, settings, uniforms, left, limit):
                yield sampler.take(token)
            return
        choice = sampler.choose(decoder.advance(np.array([[choice.token]], np.int32))[0])
        yield choice


def warn_of_full_context(longest: int, made: int, max_tokens: int) -> None:
    """Warn that a text ended with the context."""
    warnings.warn(
        f"the context of {longest} tokens is full after {format_count(made, 'new ones')}, "
        f"where {max_tokens} were asked for",
        stacklevel=3,
    )


def choose_prefill_chunk(model: Model) -> int:
    """How many tokens of a prompt this model reads at once."""
    return model.prefill_chunk if isinstance(model, ReadsChunks) else PREFILL_CHUNK


def _read_prompt(decoder: Decoder, tokens: Sequence[int], chunk: int) -> NDArray[np.floating]:
    """Read tokens into an empty cache, `chunk` at a time; the logits after the last. -> (1, V)"""
    for start in range(0, len(tokens), chunk):
        logits = decoder.advance(np.array([tokens[start : start + chunk]], np.int32))
    return logits


def collect_completion(tokens: Generator[int, None, str]) -> Completion:
    """Run `generate_tokens` to its end."""
    ids = []
    while True:
        try:
            ids.append(next(tokens))
        except StopIteration as end:
            return Completion(tuple(ids), str(end.value))
