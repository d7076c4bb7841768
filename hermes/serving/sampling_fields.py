"""The fields of a request that say how its texts are made, in both kinds of completion."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hermes.errors import HermesError
from hermes.inference.decoding import CONTEXT_OVERFLOWS
from hermes.inference.request import Request
from hermes.inference.sampling_options import make_sampling
from hermes.serving.body import Body, shorten
from hermes.serving.errors import ApiError
from hermes.serving.served_model import ServedModel

__all__ = ["TextSettings", "take_text_settings"]

LARGEST_SEED = 2**63 - 1
# What other servers take besides OpenAI's fields, with its bounds.
MORE_NUMBERS = {
    "min_p": (0, 1),
    "typical_p": (0.0001, 1),
    "repetition_penalty": (0.0001, 10),
    "dry_multiplier": (0, 10),
    "dry_base": (1, 10),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
}
MORE_COUNTS = ("top_k", "min_tokens", "no_repeat_ngram", "dry_allowed_length", "dry_range")
MORE_TEXTS = ("ban", "dry_breaker")
LEAST_TOP_P = 1e-6  # with which the most probable token alone stays


@dataclass(frozen=True)
class TextSettings:
    """How the texts of a request are made. num_texts: of each prompt."""

    fields: dict[str, Any]
    num_texts: int
    seed: int

    @property
    def slides(self) -> bool:
        """Whether a text goes on where the context is full."""
        return bool(self.fields["context_overflow"] == "slide")

    def make_request(
        self, prompt: list[int], number: int, max_tokens: int, endings: Collection[int], **more: Any
    ) -> Request:
        """The request of one text; `number` makes those of one prompt differ. Raises ApiError.

        endings: ids that end it. more: further fields of the request.
        """
        try:
            return Request(
                tuple(prompt),
                max_tokens=max_tokens,
                seed=self.seed,
                completion=number,
                stop_ids=tuple(sorted(endings)),
                **self.fields,
                **more,
            )
        except HermesError as error:
            raise ApiError(400, str(error)) from None


def take_text_settings(body: Body, model: ServedModel, logprobs: int | None) -> TextSettings:
    """Take these fields of a body. Raises ApiError, also for a model that is not served."""
    limits, asked = model.limits, body.take("model")
    if asked is not None and asked != model.name:
        raise ApiError(
            404,
            f"the model {shorten(repr(asked))} is not served here; it is {model.name!r}",
            param="model",
            code="model_not_found",
        )
    num_texts = body.take_count("n", 1, 1, limits.choices)
    seed = body.take_int("seed", -LARGEST_SEED - 1, LARGEST_SEED)
    stop = body.take_strings("stop", limits.stops)
    overflow = body.take("context_overflow", model.context_overflow)
    if overflow not in CONTEXT_OVERFLOWS:
        raise body.refuse("context_overflow", f"must be {' or '.join(CONTEXT_OVERFLOWS)}", overflow)
    given: dict[str, Any] = {
        "temperature": body.take_number("temperature", 0, 2),
        "top_p": _take_top_p(body),
        "presence_penalty": body.take_number("presence_penalty", -2, 2),
        "frequency_penalty": body.take_number("frequency_penalty", -2, 2),
        **{name: body.take_number(name, *bounds) for name, bounds in MORE_NUMBERS.items()},
        **{name: body.take_int(name, 0, 1 << 31) for name in MORE_COUNTS},
        **{name: body.take_strings(name, limits.stops) for name in MORE_TEXTS},
        "logit_bias": _take_bias(body),
    }
    # 1 is what OpenAI's clients leave out.
    config = {"temperature": 1.0, **model.generation_config}
    try:
        sampling, _ = make_sampling(model.tokenizer, config, given)
    except HermesError as error:
        raise ApiError(400, str(error)) from None
    fields = {
        "sampling": sampling,
        "stop": stop,
        "logprobs": logprobs,
        "context_overflow": overflow,
    }
    chosen = secrets.randbits(63) if seed is None else seed % (1 << 63)
    return TextSettings(fields, num_texts, chosen)


def _take_top_p(body: Body) -> float | None:
    value = body.take_number("top_p", 0, 1)
    return None if value is None else max(value, LEAST_TOP_P)


def _take_bias(body: Body) -> dict[int, float]:
    value = body.take("logit_bias", {})
    try:
        bias = {int(token): number for token, number in value.items()}
        # Not a text or a truth value, which float() would take, too.
        if all(type(number) in (int, float) for number in bias.values()):
            return {token: float(number) for token, number in bias.items()}
    except (AttributeError, ValueError, OverflowError):
        pass
    raise body.refuse("logit_bias", "must give numbers to ids of tokens", value)
