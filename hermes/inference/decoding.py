"""Decoding: one prefill of the prompt, then one token at a time over the KV cache.

The token at position t of completion c is sampled with uniform number t of a stream named by c, so
randomness depends on (seed, completion, position) alone: neither on the backend nor on how the
text is split over calls.
"""

import warnings
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from hermes.arguments import convert_value
from hermes.errors import HermesError
from hermes.inference.sampling import Sampling, choose
from hermes.interface import Model
from hermes.numerics.randomness import draw_uniforms

__all__ = ["Completion", "collect_completion", "generate_tokens"]


@dataclass(frozen=True)
class Completion:
    """The tokens that followed a prompt, without the one that ended them.

    finish_reason: 'stop' at a stop token, 'length' at max_tokens or at the end of the context.
    """

    tokens: tuple[int, ...]
    finish_reason: str


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
) -> Generator[int, None, str]:
    """Yield the ids that follow `prompt`; the generator returns the finish reason.

    Stops at a token of `stop`, after max_tokens, or where the context of max_seq_len is full, which
    warns. completion: the number of the completion, which names its random stream. vocab_size:
    sample only ids below this, where the model has padding rows (None: all). Raises HermesError.
    """
    longest = model.spec.max_seq_len
    max_tokens = convert_value("max_tokens", max_tokens, int)
    seed = convert_value("seed", seed, int)
    if max_tokens < 1:
        raise HermesError(f"max_tokens must be at least 1, got {max_tokens}")
    if len(prompt) > longest:
        raise HermesError(
            f"the prompt has {len(prompt)} tokens, more than the model's max_seq_len {longest}; "
            "shorten it"
        )
    if not prompt:
        raise HermesError(
            "the prompt is empty and the tokenizer has no token that begins a text; give a prompt"
        )
    return _decode_tokens(
        model, prompt, max_tokens, sampling, seed, f"sampling/{completion}", stop, vocab_size
    )


def _decode_tokens(
    model: Model,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    stream: str,
    stop: Collection[int],
    vocab_size: int | None,
) -> Generator[int, None, str]:
    count = min(max_tokens, model.spec.max_seq_len - len(prompt) + 1)
    draws = draw_uniforms(seed, stream, count, start=len(prompt))
    decoder = model.decoder(1, len(prompt) + count - 1)
    logits = decoder.advance(np.array([prompt], np.int32))
    for index in range(count):
        token = choose(logits[0, :vocab_size], sampling, float(draws[index]))
        if token in stop:
            return "stop"
        yield token
        if index + 1 < count:
            logits = decoder.advance(np.array([[token]], np.int32))
    if count < max_tokens:
        warnings.warn(
            f"the context of {model.spec.max_seq_len} tokens is full after {count} new ones, "
            f"where {max_tokens} were asked for",
            stacklevel=2,
        )
    return "length"


def collect_completion(tokens: Generator[int, None, str]) -> Completion:
    """Run `generate_tokens` to its end."""
    ids = []
    while True:
        try:
            ids.append(next(tokens))
        except StopIteration as end:
            return Completion(tuple(ids), str(end.value))
