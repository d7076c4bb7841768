"""Texts of one request, as they come and as they are at the end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from hermes.inference.request import Piece, Request
from hermes.inference.sampler import Choice
from hermes.serving.served_model import ServedModel

__all__ = ["Text", "gather_texts", "merge_streams"]


@dataclass
class Text:
    """A text as it is at the end."""

    text: str = ""
    choices: list[Choice] = field(default_factory=list)
    finish_reason: str = ""
    ending: Choice | None = None

    def add(self, piece: Piece) -> None:
        """Add what came."""
        self.text += piece.text
        if piece.choice is not None:
            self.choices.append(piece.choice)
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.ending = piece.ending or self.ending

    @property
    def all_choices(self) -> list[Choice]:
        """The tokens that were chosen, with the one that ended the text."""
        return [*self.choices, *([] if self.ending is None else [self.ending])]


async def gather_texts(model: ServedModel, requests: Sequence[Request]) -> list[Text]:
    """Generate all texts, at the same time. Raises ApiError, which ends the others."""

    async def gather(request: Request) -> Text:
        text = Text()
        async with aclosing(model.stream(request)) as pieces:
            async for piece in pieces:
                text.add(piece)
        return text

    async with _TaskGroup() as group:
        tasks = [group.create_task(gather(request)) for request in requests]
    return [task.result() for task in tasks]


async def merge_streams(
    model: ServedModel, requests: Sequence[Request]
) -> AsyncGenerator[tuple[int, Piece]]:
    """Yield the pieces of all texts as they come, each with its text's number. Raises ApiError."""
    pieces: asyncio.Queue[tuple[int, Piece] | None] = asyncio.Queue()

    async def feed(number: int, request: Request) -> None:
        async with aclosing(model.stream(request)) as stream:
            async for piece in stream:
                pieces.put_nowait((number, piece))

    async def feed_all() -> None:
        try:
            async with _TaskGroup() as group:
                for number, request in enumerate(requests):
                    group.create_task(feed(number, request))
        finally:
            pieces.put_nowait(None)

    task = asyncio.create_task(feed_all())
    try:
        while (found := await pieces.get()) is not None:
            yield found
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _TaskGroup(asyncio.TaskGroup):
    """A task group that raises the first error of its tasks itself, not a group of one."""

    async def __aexit__(self, *error: object) -> None:
        try:
            await super().__aexit__(*error)  # type: ignore[arg-type]  # handed on as they came
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
