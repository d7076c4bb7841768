"""/v1/chat/completions: answers to conversations, by the model's own chat template."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.messages import read_messages
from hermes.errors import HermesError
from hermes.inference.generated_text import TokenLogprob, describe_choices
from hermes.inference.request import Piece
from hermes.inference.sampler import Choice
from hermes.serving.answer_form import take_answer_form
from hermes.serving.body import Body
from hermes.serving.completions import count_usage, take_stream_options
from hermes.serving.errors import ApiError
from hermes.serving.gathering import Text, gather_texts, merge_streams
from hermes.serving.sampling_fields import take_text_settings
from hermes.serving.served_model import ServedModel
from hermes.serving.tool_calls import may_begin_call, split_tool_calls

__all__ = ["ChatCompletion"]


class ChatCompletion:
    """A request of answers, read from its body. Raises ApiError.

    tools reach the template; calls of them in an answer become `tool_calls`. What response_format
    and tool_choice promise, the answers' grammar holds the model to.
    """

    kind = "chat.completion"

    def __init__(self, value: Any, model: ServedModel):
        body = Body(value)
        self.model = model
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self.messages = _take_messages(body)
        self.template_arguments = _take_arguments(body)
        self.form = take_answer_form(body)
        self.logprobs = _take_logprobs(body, model)
        self.streams = body.take_bool("stream")
        self.includes_usage = take_stream_options(body)
        older = body.take_int("max_tokens", 1, 1 << 31)  # its name before reasoning models
        self.max_tokens = body.take_int("max_completion_tokens", 1, 1 << 31) or older
        self.settings = take_text_settings(body, model, self.logprobs)
        body.finish()

    async def answer(self) -> dict[str, Any]:
        """The whole answer. Raises ApiError."""
        encoder = await self.model.choose_encoder(self.template_arguments)
        prompt, dropped = await self._encode(encoder)
        requests = await self._make_requests(encoder, prompt)
        texts = await gather_texts(self.model, requests)
        choices = [self._describe(number, text) for number, text in enumerate(texts)]
        usage = count_usage([prompt], [len(text.choices) for text in texts])
        return {**self._begin(self.kind), "choices": choices, "usage": usage} | dropped

    def _describe(self, number: int, text: Text) -> dict[str, Any]:
        content, calls = text.text, list[dict[str, Any]]()
        if self.form.callable:
            content, calls = split_tool_calls(text.text, self.form.callable)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        return {
            "index": number,
            "message": message,
            "logprobs": self._describe_logprobs(text.choices),
            "finish_reason": "tool_calls" if calls else text.finish_reason,
        }

    async def stream(self) -> AsyncGenerator[dict[str, Any]]:
        """The answer in pieces. Raises ApiError."""
        encoder = await self.model.choose_encoder(self.template_arguments)
        prompt, dropped = await self._encode(encoder)
        requests, tools = await self._make_requests(encoder, prompt), self.form.callable
        counts, held = [0] * len(requests), [""] * len(requests)
        begun = set[int]()
        async for number, piece in merge_streams(self.model, requests):
            # Not before the first token: what is refused until then is refused with its status.
            if number not in begun:
                begun.add(number)
                yield self._make_chunk(number, {"role": "assistant", "content": ""}) | dropped
            counts[number] += piece.choice is not None
            text, reason = held[number] + piece.text, piece.finish_reason
            held[number] = ""
            delta: dict[str, Any] = {}
            if tools and reason is not None:
                text, calls = split_tool_calls(text, tools)
                if calls:
                    reason = "tool_calls"
                    delta["tool_calls"] = [
                        {"index": index, **call} for index, call in enumerate(calls)
                    ]
            elif tools and may_begin_call(text):
                held[number], text = text, ""
            if text:
                delta["content"] = text
            if delta or reason or (self.logprobs is not None and piece.choice):
                yield self._make_chunk(number, delta, piece, reason)
        if self.includes_usage:
            usage = count_usage([prompt], counts)
            yield {**self._begin(f"{self.kind}.chunk"), "choices": [], "usage": usage}

    async def _encode(self, encoder: ChatEncoder) -> tuple[list[int], dict[str, int]]:
        """The prompt's ids, and how many of the oldest messages it has no room for."""
        tools = self.form.tools or None
        if not self.settings.slides:
            return await self.model.encode_chat(encoder, self.messages, tools), {}
        prompt, dropped = await self.model.fit_chat(encoder, self.messages, tools, self.max_tokens)
        return prompt, {"dropped_messages": dropped} if dropped else {}

    async def _make_requests(self, encoder: ChatEncoder, prompt: list[int]) -> list[Any]:
        grammar = await self.form.compile(self.model)
        endings, capacity = await self.model.find_endings(encoder), self.model.engine.capacity
        # Without a limit an answer may be as long as the context has room for, or as all of it
        # where it may slide.
        room = capacity if self.settings.slides else max(capacity - len(prompt) + 1, 1)
        most = room if self.max_tokens is None else self.max_tokens
        return [
            self.settings.make_request(
                prompt, number, most, endings, continued=False, grammar=grammar
            )
            for number in range(self.settings.num_texts)
        ]

    def _begin(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model.name,
        }

    def _make_chunk(
        self,
        number: int,
        delta: dict[str, Any],
        piece: Piece | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        choices = [piece.choice] if piece is not None and piece.choice is not None else []
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": self._describe_logprobs(choices),
            "finish_reason": reason,
        }
        return {**self._begin(f"{self.kind}.chunk"), "choices": [choice]}

    def _describe_logprobs(self, choices: Sequence[Choice]) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        described = describe_choices(self.model.tokenizer, choices)
        return {"content": [self._describe_token(one) for one in described], "refusal": None}

    def _describe_token(self, one: TokenLogprob) -> dict[str, Any]:
        def describe(token: int, text: str, logprob: float | None) -> dict[str, Any]:
            spelt = list(self.model.tokenizer.get_token_bytes(token))
            return {"token": text, "logprob": logprob, "bytes": spelt}

        return {
            **describe(one.id, one.text, one.logprob),
            "top_logprobs": [describe(*entry) for entry in one.top],
        }


def _take_messages(body: Body) -> Any:
    value = body.take("messages")
    if not isinstance(value, list) or not value:
        raise body.refuse("messages", "must be a list of at least one message", value)
    try:
        return read_messages(value, "messages", to_learn=False)
    except HermesError as error:
        raise ApiError(400, str(error), param="messages") from None


def _take_arguments(body: Body) -> dict[str, Any]:
    """Arguments of the chat template, as other servers take them."""
    value = body.take("chat_template_kwargs", {})
    if not isinstance(value, dict):
        raise body.refuse("chat_template_kwargs", "must be an object", value)
    return value


def _take_logprobs(body: Body, model: ServedModel) -> int | None:
    wanted = body.take_bool("logprobs")
    count = body.take_int("top_logprobs", 0, model.limits.logprobs)
    if count is not None and not wanted:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return (count or 0) if wanted else None
