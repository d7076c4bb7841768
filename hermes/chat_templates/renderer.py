"""Has templates rendered by a process of their own, which is ended where one takes too much.

One process serves all templates of this one. It is started with the first, ends with its input,
and is started anew after it was ended.
"""

import atexit
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hermes.chat_templates.messages import Message
from hermes.chat_templates.render_client import Ahead, RenderClient, RendererEnded
from hermes.chat_templates.turns import add_reads, get_index
from hermes.errors import DataError

__all__ = ["begin_ahead", "compile_template", "finish_ahead", "render_template"]

_renderer = RenderClient()
atexit.register(_renderer.close)


def compile_template(source: str, where: str) -> tuple[set[str], set[str]]:
    """Compile a template. -> the variables that it reads, and those that only others set

    Raises DataError.
    """
    answer = _request(where, "is not a Jinja template", lambda: _renderer.compile(source))
    if answer[0] == "names":
        return set(answer[1]), set(answer[2])
    kind, line, message = answer
    at = "" if line is None else f":{line}"
    if kind == "memory":
        message = f"it {_renderer.explain_memory()}"
    raise DataError(f"{where}{at}: not a Jinja template: {message}")


def render_template(
    source: str,
    where: str,
    messages: Iterable[Message],
    variables: Mapping[str, Any],
    *,
    marks_turns: bool = False,
) -> str:
    """Render a conversation, and note in its turns which fields were read. Raises DataError."""
    turns = list(messages)
    given = _describe_turns(turns)
    answer = _request(
        where, "fails", lambda: _renderer.render(source, marks_turns, given, variables)
    )
    if answer[0] == "text":
        for turn, fields in zip(turns, answer[2], strict=True):
            add_reads(turn, fields)
        return str(answer[1])
    kind, line, message = answer
    at = "" if line is None else f" in line {line}"
    if kind == "memory":
        message = f"it {_renderer.explain_memory()}"
    if kind == "refused":
        raise DataError(f"{where} refuses the conversation: {message}")
    if kind == "outside":
        raise DataError(f"{where} tries to leave its sandbox{at}: {message}; do not use it")
    raise DataError(f"{where} fails{at}: {message}")


def begin_ahead(
    source: str,
    where: str,
    conversations: Iterable[tuple[Iterable[Message], Any, Any]],
    variables: Mapping[str, Any],
) -> Ahead:
    """Begin to render parts of conversations: (messages, tools, [Rendering, ...]) each.

    -> what `finish_ahead` waits for. Raises DataError.
    """
    given = [(_describe_turns(turns), tools, wanted) for turns, tools, wanted in conversations]
    return _request(where, "fails", lambda: _renderer.begin(source, variables, given))


def finish_ahead(ahead: Ahead) -> list[Any]:
    """Wait for what was begun. -> of each conversation, texts and fields read; empty if it failed

    A text is None where the template refuses the conversation.
    """
    return _renderer.finish(ahead)


def _describe_turns(messages: Iterable[Message]) -> list[Any]:
    return [(dict(_list_fields(turn)), get_index(turn)) for turn in messages]


def _list_fields(message: Message) -> Iterable[tuple[str, Any]]:
    # Not by the turn's own method, which notes what is read.
    return dict.items(message) if isinstance(message, dict) else message.items()


def _request(where: str, fails: str, ask: Callable[[], list[Any]]) -> list[Any]:
    try:
        return ask()
    except RendererEnded as error:
        raise DataError(f"{where} {fails}: it {error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: a message is nothing that JSON can hold: {error}") from None
