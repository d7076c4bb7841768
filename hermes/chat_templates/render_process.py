"""The process that compiles and renders chat templates: its memory and processor time are bounded.

A template is a program by a stranger. The sandbox refuses by name what is known to grow or to run
long; the limits of this process hold for everything else, whatever Python's types can do.
`renderer` starts it with these limits, bytes of address space and seconds of each request. It sends
requests to standard input and reads answers from standard output. Both are JSON, so nothing that a
template does runs outside.
"""

import json
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from hermes.chat_templates.sandbox import Refused, make_environment
from hermes.chat_templates.turns import Turn, list_reads

__all__ = ["LENGTH", "read_exactly", "run_requests", "write_all"]

LENGTH = struct.Struct("<Q")
"""The number of bytes before each request and answer."""

Answer = tuple[Any, ...]


def read_exactly(file: int, size: int) -> bytes:
    """Read `size` bytes. Raises EOFError where there are fewer."""
    parts = []
    while size:
        part = os.read(file, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_all(file: int, data: bytes) -> None:
    """Write a request or an answer, its length first. Raises OSError."""
    rest = memoryview(LENGTH.pack(len(data)) + data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _summarize(error: BaseException) -> str:
    """In a line, without characters that could move a terminal's cursor."""
    text = " ".join(str(error)[:2000].split())[:200] or type(error).__name__
    return "".join(one if one.isprintable() else "?" for one in text)


def _find_line(error: BaseException) -> int | None:
    """Find the line of the template at which an error was raised, if known."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else None


class _Templates:
    """The compiled templates, by the number that the other process gives them."""

    def __init__(self) -> None:
        self._sources: dict[int, str] = {}
        self._compiled: dict[tuple[int, bool], Any] = {}

    def compile(self, number: int, source: str) -> Answer:
        """Compile a template. -> ("names", the variables that it reads, those that only others set)

        Or why it is none.
        """
        from jinja2 import TemplateError, TemplateSyntaxError, meta

        environment = make_environment()
        try:
            self._compiled[number, False] = environment.from_string(source)
            parsed = environment.parse(source)
            read = meta.find_undeclared_variables(parsed)
        except TemplateSyntaxError as error:
            return "syntax", error.lineno, str(error.message)
        except MemoryError:
            return "memory", None, ""
        except (TemplateError, RecursionError, OverflowError) as error:
            return "syntax", None, _summarize(error)
        except Exception as error:  # constants are computed, which can raise anything
            return "syntax", None, _summarize(error)
        self._sources[number] = source
        return (
            "names",
            sorted(read),
            sorted(read - _find_own_names(parsed) - {*environment.globals}),
        )

    def forget(self, number: int) -> Answer:
        """Forget a template that nobody has any more."""
        self._sources.pop(number, None)
        for marks_turns in (False, True):
            self._compiled.pop((number, marks_turns), None)
        return ("names", [], [])

    def render_ahead(
        self, number: int, variables: Mapping[str, Any], conversations: list[list[Any]]
    ) -> Answer:
        """Render parts of conversations, each [messages, tools, [[which, prompt, marks], ...]].

        which: the first so many messages, or their numbers. -> ("texts", for each conversation its
        texts and the fields read). Those that the template refuses have None, as they may never be
        needed.
        """
        found = []
        for messages, tools, wanted in conversations:
            texts: list[str | None] = []
            turns = _make_turns(messages)
            for which, prompt, marks in wanted:
                given = {**variables, "tools": tools, "add_generation_prompt": prompt}
                chosen = turns[:which] if isinstance(which, int) else [turns[i] for i in which]
                kind, *answer = self._render_turns(number, marks, chosen, given)
                texts.append(answer[0] if kind == "text" else None)
                if kind == "memory":
                    return kind, *answer
            found.append((texts, list(map(list_reads, turns))))
        return "texts", found

    def render(
        self,
        number: int,
        marks_turns: bool,
        messages: list[tuple[dict[str, Any], int | None]],
        variables: Mapping[str, Any],
    ) -> Answer:
        """Render a conversation. -> ("text", it, the fields read of each message), or why not"""
        turns = _make_turns(messages)
        answer = self._render_turns(number, marks_turns, turns, variables)
        return answer if answer[0] != "text" else (*answer, list(map(list_reads, turns)))

    def _render_turns(
        self, number: int, marks_turns: bool, turns: list[Any], variables: Mapping[str, Any]
    ) -> Answer:
        from jinja2.exceptions import SecurityError

        try:
            if (number, marks_turns) not in self._compiled:
                environment = make_environment(marks_turns=marks_turns)
                source = self._sources[number]
                self._compiled[number, marks_turns] = environment.from_string(source)
            text = self._compiled[number, marks_turns].render(messages=turns, **variables)
        except Refused as error:
            return "refused", None, _summarize(error)
        except SecurityError as error:
            return "outside", _find_line(error), _summarize(error)
        except MemoryError as error:
            return "memory", _find_line(error), ""
        except Exception as error:  # a template can raise anything that Python raises
            return "fails", _find_line(error), _summarize(error)
        return "text", str(text)


def _find_own_names(parsed: Any) -> set[str]:
    """Find the names that a template sets before it reads them, perhaps not in all cases."""
    from jinja2 import nodes

    own, read = set[str](), set[str]()

    def walk(node: Any) -> None:
        if isinstance(node, nodes.Name):
            if node.ctx == "load":
                read.add(node.name)
            elif node.name not in read:
                own.add(node.name)
        children = [*node.iter_child_nodes()]
        # The value of an assignment is read before its target is set.
        is_assigned = isinstance(node, nodes.Assign)
        for child in reversed(children) if is_assigned else children:
            walk(child)

    walk(parsed)
    return own


def _make_turns(messages: list[tuple[dict[str, Any], int | None]]) -> list[Any]:
    return [each if i is None else Turn(each, i) for each, i in messages]


def _limit_memory(size: int) -> None:
    with suppress(ValueError, OSError):  # macOS has no such limit: `renderer` looks after it
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: int, most: int) -> None:
    """Let the kernel end this process so many seconds from now, counted in processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + seconds + 1
    limit = end if most == resource.RLIM_INFINITY else min(end, most)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))


def run_requests(source: int, target: int, seconds: int) -> None:
    """Answer requests until there are no more, each within so many seconds of processor time."""
    templates = _Templates()
    kinds: dict[str, Callable[..., Answer]] = {
        "compile": templates.compile,
        "render": templates.render,
        "render_ahead": templates.render_ahead,
        "forget": templates.forget,
    }
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with suppress(EOFError):
        while True:
            size = LENGTH.unpack(read_exactly(source, LENGTH.size))[0]
            kind, *arguments = json.loads(read_exactly(source, size))
            _limit_time(seconds if kind != "render_ahead" else len(arguments[2]) * seconds, most)
            write_all(target, json.dumps(kinds[kind](*arguments)).encode())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides when to end
    _limit_memory(int(sys.argv[1]))
    with suppress(BrokenPipeError):
        run_requests(sys.stdin.fileno(), sys.stdout.fileno(), int(sys.argv[2]))
