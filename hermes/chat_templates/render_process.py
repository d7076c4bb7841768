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
    return " ".join(str(error)[:2000].split())[:200] or type(error).__name__


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
        """Compile a template. -> ("names", the variables that it reads), or why it is none"""
        from jinja2 import TemplateError, TemplateSyntaxError, meta

        environment = make_environment()
        try:
            self._compiled[number, False] = environment.from_string(source)
            read = meta.find_undeclared_variables(make_environment().parse(source))
        except TemplateSyntaxError as error:
            return "syntax", error.lineno, str(error.message)
        except MemoryError:
            return "memory", None, ""
        except (TemplateError, RecursionError, OverflowError) as error:
            return "syntax", None, _summarize(error)
        except Exception as error:  # constants are computed, which can raise anything
            return "syntax", None, _summarize(error)
        self._sources[number] = source
        return "names", sorted(read)

    def forget(self, number: int) -> Answer:
        """Forget a template that nobody has any more."""
        self._sources.pop(number, None)
        for marks_turns in (False, True):
            self._compiled.pop((number, marks_turns), None)
        return ("names", [])

    def render_ahead(
        self, number: int, variables: Mapping[str, Any], conversations: list[list[Any]]
    ) -> Answer:
        """Render beginnings of conversations, each [messages, tools, [(count, prompt), ...]].

        -> ("texts", for each conversation its texts and the fields read). Those that the template
        refuses have None, as they may never be needed.
        """
        found = []
        for messages, tools, wanted in conversations:
            texts: list[str | None] = []
            reads: list[set[str]] = [set() for _ in messages]
            for count, prompt in wanted:
                given = {**variables, "tools": tools, "add_generation_prompt": prompt}
                answer = self.render(number, False, messages[:count], given)
                texts.append(answer[1] if answer[0] == "text" else None)
                if answer[0] == "memory":
                    return answer
                if answer[0] == "text":
                    for own, read in zip(reads, answer[2], strict=False):
                        own.update(read)
            found.append((texts, list(map(list, reads))))
        return "texts", found

    def render(
        self,
        number: int,
        marks_turns: bool,
        messages: list[tuple[dict[str, Any], int | None]],
        variables: Mapping[str, Any],
    ) -> Answer:
        """Render a conversation. -> ("text", it, the fields read of each message), or why not"""
        from jinja2.exceptions import SecurityError

        turns = [each if i is None else Turn(each, i) for each, i in messages]
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
        return "text", str(text), list(map(list_reads, turns))


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
