"""A generated text as the library hands it over, and log-probabilities of given text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hermes.inference.beam_search import Beam
from hermes.inference.sampler import Choice, rank_logprobs
from hermes.interface import Model
from hermes.tokenizer import Tokenizer

__all__ = ["GeneratedText", "TokenLogprob", "describe_beam", "describe_choices", "score_tokens"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token, and how likely the model finds it after those before, in nats.

    logprob: None of a first token. top: the most likely tokens there, as (id, text, logprob).
    """

    id: int
    text: str
    logprob: float | None
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class GeneratedText:
    """The text that followed a prompt. tokens: their number, without one that ended it.

    finish_reason: 'stop' at a token or string that ends texts, 'length' at max_tokens or at the end
    of the context, 'cancelled', or 'error'. stop: the stop string that was found. logprobs: of each
    token, None where not asked for; with echo, which puts the prompt before the text, of the
    prompt's tokens too. tokens counts those of a stop string, which is no part of the text. score:
    of beam search, as in `Beam`.
    """

    text: str
    tokens: int
    finish_reason: str
    seed: int
    stop: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    score: float | None = None

    def __str__(self) -> str:
        return self.text

    def to_json(self) -> dict[str, Any]:
        """As JSON has it, without what was not asked for."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.logprobs is not None:
            found["logprobs"] = [dict(vars(one)) for one in self.logprobs]
        return {name: value for name, value in found.items() if value is not None}


def describe_beam(tokenizer: Tokenizer, beam: Beam, *, continued: bool) -> GeneratedText:
    """A text that beam search found. continued: whether it follows a prompt."""
    text = tokenizer.decode(beam.tokens, continued=continued)
    return GeneratedText(text, len(beam.tokens), beam.finish_reason, seed=0, score=beam.score)


def describe_choices(tokenizer: Tokenizer, choices: Iterable[Choice]) -> tuple[TokenLogprob, ...]:
    """Choices with their tokens as text."""

    def show(token: int) -> str:
        return tokenizer.decode([token], skip_special=False, continued=True)

    return tuple(
        TokenLogprob(
            choice.token,
            show(choice.token),
            choice.logprob,
            tuple((token, show(token), logprob) for token, logprob in choice.top or ()),
        )
        for choice in choices
    )


def score_tokens(model: Model, tokens: Sequence[int], count: int) -> list[Choice]:
    """Each token's log-probability after those before it; of the first, None.

    count: how many of the most likely tokens come with each. Raises HermesError beyond the model's
    max_seq_len.
    """
    ids = np.array([tokens], np.int32)
    first = Choice(int(ids[0, 0]), None, ())
    if len(tokens) == 1:
        return [first]
    if count == 0:  # which spares the memory of all logits
        found = model.logprobs(ids[:, :-1], ids[:, 1:])[0]
        rest = [Choice(int(t), float(x), ()) for t, x in zip(tokens[1:], found, strict=True)]
    else:
        rows = model.logits(ids[:, :-1])[0]
        rest = [
            Choice(int(token), *rank_logprobs(row, int(token), count))
            for token, row in zip(tokens[1:], rows, strict=True)
        ]
    return [first, *rest]
