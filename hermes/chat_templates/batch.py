"""Batches of conversations, rendered by the other process while this one tokenizes those before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hermes.chat_templates.dialogue import Dialogue
from hermes.chat_templates.guard import GuardedMessages
from hermes.chat_templates.messages import Conversation, Message
from hermes.chat_templates.renderer import finish_ahead
from hermes.chat_templates.template import Rendering, Template
from hermes.errors import DataError

__all__ = ["OpenedConversation", "open_ahead"]

AHEAD = 32  # conversations that are rendered together

OpenedConversation = tuple[GuardedMessages, Dialogue, Sequence[Message]]
"""The messages guarded, the dialogue of them, and the messages themselves."""


@dataclass(frozen=True)
class _Batch:
    """Conversations, each opened if it can be, what of them is being rendered, and for whom."""

    opened: list[tuple[Conversation, OpenedConversation | None]]
    wanted: list[list[Rendering]]
    ahead: list[Any]

    def finish(self) -> list[tuple[Conversation, OpenedConversation | None]]:
        """Give dialogues what was rendered; those for which it failed render it themselves."""
        dialogues = [found[1] for _, found in self.opened if found]
        for dialogue, keys, (texts, reads) in zip(
            dialogues, self.wanted, finish_ahead(self.ahead), strict=False
        ):
            dialogue.take_texts(keys, texts, reads)
        return self.opened


def open_ahead(
    conversations: Iterable[Conversation],
    template: Template,
    open_one: Callable[[Conversation], OpenedConversation],
) -> Iterator[tuple[Conversation, OpenedConversation | None]]:
    """Open each conversation, with most of what will be needed of it rendered.

    -> the conversation, and None where it is text or cannot be opened, which says why when it is
    tried again.
    """
    batches = (_begin(part, template, open_one) for part in _split(conversations))
    batch = next(batches, None)
    while batch is not None:
        opened = batch.finish()
        batch = next(batches, None)  # it is being rendered from now on
        yield from opened


def _split(items: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    rest = iter(items)
    while part := list(islice(rest, AHEAD)):
        yield part


def _begin(
    conversations: Sequence[Conversation],
    template: Template,
    open_one: Callable[[Conversation], OpenedConversation],
) -> _Batch:
    """Begin to render what conversations will need."""
    opened: list[tuple[Conversation, OpenedConversation | None]] = []
    for one in conversations:
        try:
            opened.append((one, open_one(one) if one.text is None else None))
        except DataError:
            opened.append((one, None))
    dialogues = [found[1] for _, found in opened if found]
    wanted = [dialogue.list_likely() for dialogue in dialogues]
    try:
        ahead = template.begin_ahead(
            (one.turns, one.tools, keys) for one, keys in zip(dialogues, wanted, strict=True)
        )
    except DataError:
        ahead = []
    return _Batch(opened, wanted, ahead)
