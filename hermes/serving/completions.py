"""/v1/completions: texts that continue prompts."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from hermes.formatting import format_count
from hermes.inference.generated_text import describe_choices, score_tokens
from hermes.inference.request import Piece
from hermes.inference.sampler import Choice
from hermes.serving.body import Body
from hermes.serving.errors import ApiError
from hermes.serving.gathering import Text, gather_texts, merge_streams
from hermes.serving.sampling_fields import take_text_settings
from hermes.serving.served_model import ServedModel

__all__ = ["Completion", "count_usage", "take_stream_options"]

DEFAULT_TOKENS = 16  # OpenAI's


class Completion:
    """A request of completions, read from its body. Raises ApiError.

    prompt: a text, ids of tokens, or a list of either; each is continued `n` times. echo: the
    prompt comes before its texts, and has log-probabilities too, where they are asked for. Those
    of a text have one for the token that ended it, too, as clients that score prompts expect.
    """

    kind = "text_completion"

    def __init__(self, value: Any, model: ServedModel):
        body = Body(value)
        self.model = model
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self.prompts = _take_prompts(body, model)
        self.logprobs = body.take_int("logprobs", 0, model.limits.logprobs)
        self.echo = body.take_bool("echo")
        self.streams = body.take_bool("stream")
        self.includes_usage = take_stream_options(body)
        max_tokens = body.take_count("max_tokens", DEFAULT_TOKENS, 0, 1 << 31)
        best_of = body.take_int("best_of", 1, model.limits.choices)
        settings = take_text_settings(body, model, self.logprobs)
        if best_of not in (None, settings.num_texts):
            raise ApiError(400, "best_of must be n here; leave it out", param="best_of")
        if body.take("suffix", ""):
            raise ApiError(400, "suffix is not supported: texts go on at the end", param="suffix")
        body.finish()
        if len(self.prompts) * settings.num_texts > model.limits.choices:
            raise ApiError(
                400,
                f"{format_count(len(self.prompts), 'prompts')} with "
                f"{format_count(settings.num_texts, 'texts')} each are more than the "
                f"{model.limits.choices} of one request",
                param="n",
            )
        # Nothing to generate: the prompt alone is scored.
        self.only_scores = max_tokens == 0
        if self.only_scores and not self.echo:
            raise ApiError(400, "max_tokens 0 needs echo", param="max_tokens")
        self.num_texts = settings.num_texts
        self.requests = [
            settings.make_request(prompt, number, max(max_tokens, 1), model.tokenizer.stop_ids)
            for prompt in self.prompts
            for number in range(settings.num_texts)
        ]

    async def answer(self) -> dict[str, Any]:
        """The whole answer. Raises ApiError."""
        heads = await self._score_prompts()
        if self.only_scores:
            texts = [Text(finish_reason="length") for _ in self.requests]
        else:
            texts = await gather_texts(self.model, self.requests)
        choices = [
            self._describe(number, text.text, text.all_choices, text.finish_reason, heads)
            for number, text in enumerate(texts)
        ]
        usage = count_usage(self.prompts, [len(text.choices) for text in texts])
        return {**self._begin(), "choices": choices, "usage": usage}

    async def stream(self) -> AsyncGenerator[dict[str, Any]]:
        """The answer in pieces. Raises ApiError."""
        heads = await self._score_prompts()
        counts = [0] * len(self.requests)
        begun = set[int]()
        async for number, piece in merge_streams(self.model, self.requests):
            if self.echo and number not in begun:
                begun.add(number)
                yield {**self._begin(), "choices": [self._describe(number, "", [], None, heads)]}
            counts[number] += piece.choice is not None
            if piece.text or piece.finish_reason or self.logprobs is not None:
                yield {**self._begin(), "choices": [self._describe_piece(number, piece)]}
        if self.includes_usage:
            yield {**self._begin(), "choices": [], "usage": count_usage(self.prompts, counts)}

    def _begin(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model.name,
        }

    async def _score_prompts(self) -> list[list[Choice]]:
        """What stands before the texts of each prompt, with log-probabilities where asked for."""
        if not self.echo:
            return [[] for _ in self.prompts]
        count, model = self.logprobs, self.model.engine.model
        if count is None:
            return [[Choice(token) for token in prompt] for prompt in self.prompts]
        return [
            await self.model.call(lambda prompt=prompt: score_tokens(model, prompt, count))  # type: ignore[misc]
            for prompt in self.prompts
        ]

    def _describe(
        self,
        number: int,
        text: str,
        choices: Sequence[Choice],
        reason: str | None,
        heads: Sequence[list[Choice]],
    ) -> dict[str, Any]:
        head = heads[number // self.num_texts]
        tokenizer = self.model.tokenizer
        before = tokenizer.decode([c.token for c in head], skip_special=False) if head else ""
        logprobs = None
        if self.logprobs is not None:
            logprobs = self._describe_logprobs([*head, *choices])
        return {
            "index": number,
            "text": before + text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    def _describe_piece(self, number: int, piece: Piece) -> dict[str, Any]:
        choices = [choice for choice in (piece.choice, piece.ending) if choice is not None]
        return {
            "index": number,
            "text": piece.text,
            "logprobs": None if self.logprobs is None else self._describe_logprobs(choices),
            "finish_reason": piece.finish_reason,
        }

    def _describe_logprobs(self, choices: Sequence[Choice]) -> dict[str, Any]:
        described, offsets, at = describe_choices(self.model.tokenizer, choices), [], 0
        for one in described:
            offsets.append(at)
            at += len(one.text)
        return {
            "tokens": [one.text for one in described],
            "token_logprobs": [one.logprob for one in described],
            "top_logprobs": [
                {text: value for _, text, value in one.top} or None for one in described
            ],
            "text_offset": offsets,
        }


def _take_prompts(body: Body, model: ServedModel) -> list[list[int]]:
    """The ids of each prompt. Raises ApiError."""
    value = body.take("prompt", "")
    several = value if isinstance(value, list) and not _is_ids(value) else [value]
    prompts = [_encode(one, model, body) for one in several]
    if not prompts:
        raise body.refuse("prompt", "is an empty list", value)
    for prompt in prompts:
        if not prompt:
            raise ApiError(
                400,
                "prompt is empty, and the tokenizer has no token that begins a text",
                param="prompt",
            )
    return prompts


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(token, int) and not isinstance(token, bool) for token in value)
    )


def _encode(prompt: Any, model: ServedModel, body: Body) -> list[int]:
    if isinstance(prompt, str):
        return model.tokenizer.encode_prompt(prompt)
    rows = model.engine.model.spec.vocab_size
    if _is_ids(prompt) and all(0 <= token < rows for token in prompt):
        return list(prompt)
    raise body.refuse("prompt", f"must be texts, or ids of tokens below {rows:,}", prompt)


def take_stream_options(body: Body) -> bool:
    """Whether a stream ends with how many tokens were used. Raises ApiError."""
    options = Body(body.take("stream_options", {}))
    wanted = options.take_bool("include_usage")
    options.take("include_obfuscation")
    options.finish()
    return wanted


def count_usage(prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, int]:
    """How many tokens were read and made."""
    read, made = sum(map(len, prompts)), sum(counts)
    return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
