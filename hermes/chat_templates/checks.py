"""Refuses conversations of which a template would lose something without a word."""

from collections.abc import Sequence
from typing import Any

from hermes.chat_templates.dialogue import Dialogue
from hermes.chat_templates.guard import GuardedMessages
from hermes.chat_templates.messages import Message
from hermes.chat_templates.template import Template
from hermes.errors import DataError

__all__ = ["check_names", "check_roles", "check_tools"]


def check_tools(
    template: Template, messages: Sequence[Message], tools: Sequence[Any] | None
) -> None:
    """Raise DataError for tools and tool calls that the template does not write."""
    calling = [i for i, message in enumerate(messages, 1) if message.get("tool_calls")]
    if calling and "tool_calls" not in template.source:
        raise DataError(
            f"message {calling[0]} has 'tool_calls', which {template.where} does not "
            "write; give a template that does with --template, or the call as content"
        )
    if tools and "tools" not in template.source:
        raise DataError(
            f"the record has 'tools', which {template.where} does not write; give a "
            "template that does with --template, or leave them out"
        )


def check_roles(dialogue: Dialogue, whole: str, prompt: bool, known: set[str]) -> None:
    """Raise DataError for a role whose messages the template leaves out.

    known: roles that need no trial any more; gets those tried.
    """
    turns, template = dialogue.turns, dialogue.template
    for i, turn in enumerate(turns):
        if turn.role in known or not turn.get("content"):
            continue
        others = [*turns[:i], *turns[i + 1 :]]
        try:
            text = template.render(others, prompt=prompt, tools=dialogue.tools)
            same = text == whole
        except DataError:  # it needs the message, so it knows the role
            same = False
        if same:
            raise DataError(
                f"{template.where} does not know the role {turn.role!r}: it leaves "
                f"message {i + 1} out"
            )
        known.add(turn.role)


def check_names(
    template: Template,
    guarded: GuardedMessages,
    messages: Sequence[Message],
    whole: str,
    tools: Sequence[Any] | None,
    prompt: bool,
) -> None:
    """Raise DataError where the template looks for the name of a special token in messages."""
    plain = template.render(messages, prompt=prompt, tools=tools)
    if plain == guarded.restore(whole):
        return
    names = ", ".join(map(repr, list(guarded.names.values())[:4]))
    first = next(iter(guarded.names.values()))
    raise DataError(
        f"{template.where} looks into messages for {names}, which would be text there and "
        f"not a special token; let messages write it with --message-token {first!r}, or take "
        "it out"
    )
