"""The model that a server serves, and what belongs to it."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.messages import Message
from hermes.errors import HermesError, OutOfMemory, explain_exhaustion, is_out_of_memory
from hermes.inference.async_engine import AsyncEngine, EngineIsClosed
from hermes.inference.conversation_window import fit_conversation, reserve_answer
from hermes.inference.engine import DecodingFailed, Engine, QueueIsFull
from hermes.inference.prompt_cache import CacheKey
from hermes.inference.request import Piece, Request
from hermes.serving.call_grammar import CallForm, find_call_form
from hermes.serving.errors import ApiError
from hermes.serving.kept_rows import save_rows
from hermes.serving.statistics import Statistics
from hermes.tokenizer import Tokenizer

__all__ = ["Limits", "ServedModel"]

T = TypeVar("T")
MOST_ENCODERS = 8


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    body: bytes of it. choices: texts of all its prompts together. seconds: until its texts must be
    done. logprobs: likeliest tokens with each. stops: stop strings.
    """

    body: int = 16 << 20
    choices: int = 128
    seconds: float = 600.0
    logprobs: int = 20
    stops: int = 16


@dataclass
class ServedModel:
    """A model with an engine that runs its texts.

    name: by which clients ask for it. encoder: renders conversations, None where the model has no
    chat template. generation_config: the checkpoint's, whose sampling holds where a request says
    nothing. context_overflow: as of Request, where a request says nothing. made: when it was
    loaded, in seconds since 1970. kept: the folder of `keep_rows`, and whose prompts it has.
    """

    name: str
    engine: Engine
    tokenizer: Tokenizer
    encoder: ChatEncoder | None
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    context_overflow: str = "stop"
    limits: Limits = field(default_factory=Limits)
    made: int = field(default_factory=lambda: int(time.time()))
    statistics: Statistics = field(default_factory=Statistics)
    kept: tuple[Path, CacheKey] | None = None

    def __post_init__(self) -> None:
        self.served = AsyncEngine(self.engine)
        self._rendering = asyncio.Lock()
        self._call_form: CallForm | None = None
        self._encoders: dict[str, ChatEncoder] = {}  # by other arguments of the template

    def keep_rows(self) -> None:
        """Write what the engine has read to the folder that is given. Raises HermesError.

        For the end: the engine must not run.
        """
        if self.kept is not None:
            save_rows(*self.kept, self.engine)

    async def stream(self, request: Request) -> AsyncGenerator[Piece]:
        """Yield the pieces of a text. Raises ApiError."""
        began, count = time.perf_counter(), 0
        pieces = self.served.stream(request)
        self.statistics.prompt_tokens.inc(len(request.prompt))
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for piece in pieces:
                    if piece.finish_reason == "cancelled":  # not by the client, which is there
                        raise EngineIsClosed
                    if piece.finish_reason == "error":
                        continue  # which raises the error
                    if piece.choice is not None:
                        count += 1
                        self.statistics.generated_tokens.inc()
                        if count == 1:
                            waited = time.perf_counter() - began
                            self.statistics.first_token_seconds.observe(waited)
                    yield piece
        except TimeoutError:
            raise ApiError(
                504,
                f"the text was not done after {self.limits.seconds:g} s; ask for fewer tokens",
                kind="timeout_error",
            ) from None
        except QueueIsFull as error:
            raise ApiError(
                429, str(error), kind="rate_limit_error", code="rate_limit_exceeded"
            ) from None
        except OutOfMemory as error:
            raise _answer_exhaustion(str(error)) from None
        except EngineIsClosed:
            raise _answer_end() from None
        except DecodingFailed as error:
            raise ApiError(500, str(error), kind="server_error") from None
        except HermesError as error:
            too_long = len(request.prompt) > self.engine.capacity
            code = "context_length_exceeded" if too_long else None
            raise ApiError(400, str(error), code=code) from None
        finally:
            await pieces.aclose()  # which cancels what still runs

    async def choose_encoder(self, arguments: Mapping[str, Any]) -> ChatEncoder:
        """The encoder of conversations, with further arguments of its template. Raises ApiError."""
        encoder = self.encoder
        if encoder is None:
            raise ApiError(
                400, f"{self.name} has no chat template; ask for /v1/completions instead"
            )
        if not arguments:
            return encoder
        key = json.dumps(arguments, sort_keys=True)
        if key not in self._encoders:
            made = await self._render(
                lambda: encoder.copy_with_arguments(arguments), "chat_template_kwargs"
            )
            self._encoders[key] = made
            while len(self._encoders) > MOST_ENCODERS:
                self._encoders.pop(next(iter(self._encoders)))
            return made
        return self._encoders[key]

    async def encode_chat(
        self, encoder: ChatEncoder, messages: Sequence[Message], tools: Sequence[Any] | None
    ) -> list[int]:
        """Encode a conversation up to where the assistant answers. Raises ApiError."""
        return await self._render(lambda: encoder.encode_prompt(messages, tools))

    async def fit_chat(
        self,
        encoder: ChatEncoder,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        max_tokens: int | None,
    ) -> tuple[list[int], int]:
        """As `encode_chat`, without the oldest turns where they do not fit. -> ids, how many

        max_tokens: of the answer, for which room is kept. Raises ApiError.
        """
        capacity = self.engine.capacity
        room = capacity - reserve_answer(capacity, max_tokens)
        prompt, dropped = await self._render(
            lambda: fit_conversation(lambda one: encoder.encode_prompt(one, tools), messages, room)
        )
        if len(prompt) > capacity:
            raise ApiError(
                400,
                f"the last message has {len(prompt)} tokens with its template, more than the "
                f"{capacity} of the context; shorten it",
                param="messages",
                code="context_length_exceeded",
            )
        return prompt, dropped

    async def _render(self, render: Callable[[], T], field: str = "messages") -> T:
        async with self._rendering:  # one at a time: the template runs in one process
            try:
                return await asyncio.to_thread(render)
            except HermesError as error:
                raise ApiError(400, str(error), param=field) from None

    async def find_call_form(self) -> CallForm:
        """How the template writes calls of tools. Raises ApiError."""
        if self.encoder is None:
            raise ApiError(400, f"{self.name} has no chat template, so it calls no tools")
        async with self._rendering:
            if self._call_form is None:
                self._call_form = await asyncio.to_thread(
                    find_call_form, self.encoder.template, self.tokenizer
                )
        return self._call_form

    async def find_endings(self, encoder: ChatEncoder) -> frozenset[int]:
        """The ids that end an answer. Raises ApiError where the template has none."""
        return self.tokenizer.stop_ids | {await self._render(encoder.find_end_of_turn)}

    async def call(self, compute: Callable[[], T]) -> T:
        """Compute something with the model, between two steps of the engine. Raises ApiError."""
        try:
            return await self.served.call(compute)
        except EngineIsClosed:
            raise _answer_end() from None
        except HermesError as error:
            raise ApiError(400, str(error)) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise _answer_exhaustion(explain_exhaustion(error) or str(error)) from None


def _answer_end() -> ApiError:
    """What is answered to a request that the end of the server overtook."""
    return ApiError(503, "the server is ending; ask again once it runs", kind="server_error")


def _answer_exhaustion(why: str) -> ApiError:
    """What a request is answered for which there was too little memory: later ones may fit."""
    return ApiError(503, why, kind="server_error", code="out_of_memory")
