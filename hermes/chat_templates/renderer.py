"""Has templates rendered by a process of their own, which is ended where one takes too much.

One process serves all templates of this one. It is started with the first, ends with its input,
and is started anew after it was ended.
"""

import atexit
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from hermes.chat_templates.messages import Message
from hermes.chat_templates.render_process import (
    LENGTH,
    read_exactly,
    write_all,
)
from hermes.chat_templates.turns import add_reads, get_index
from hermes.errors import DataError

__all__ = ["begin_ahead", "compile_template", "finish_ahead", "render_template"]

MEMORY = 2 << 30  # bytes of address space that the process may have
SECONDS = 10  # of processor time that one rendering may take, about
KEPT = 64  # templates that the process has compiled
WATCH = 0.2  # seconds between looks at the memory of a process that no limit bounds

Ahead = list[Any]
"""Of each conversation rendered ahead, its texts and the fields read; filled in later."""


class _Ended(Exception):
    """The process ended before it answered; says why."""


class _Renderer:
    """The process, and the templates that it knows. Requests are made one at a time."""

    def __init__(self, memory: int = MEMORY, seconds: int = SECONDS) -> None:
        self.memory, self.seconds = memory, seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._numbers: dict[str, int] = {}
        self._next = itertools.count()
        self._ahead: Ahead | None = None

    def compile(self, source: str) -> list[Any]:
        """Compile a template. -> the answer of `render_process`"""
        with self._lock:
            return self._compile(source)

    def render(
        self, source: str, marks_turns: bool, messages: list[Any], variables: Mapping[str, Any]
    ) -> list[Any]:
        """Render a conversation. -> the answer of `render_process`"""
        with self._lock:
            self._find_number(source)
            return self._ask("render", self._numbers[source], marks_turns, messages, variables)

    def begin(self, source: str, variables: Mapping[str, Any], conversations: list[Any]) -> Ahead:
        """Begin to render ahead, without waiting. -> what `finish` takes"""
        ahead: Ahead = []
        with self._lock:
            self._find_number(source)
            self._send("render_ahead", self._numbers[source], variables, conversations)
            self._ahead = ahead
        return ahead

    def finish(self, ahead: Ahead) -> list[Any]:
        """Wait for what was begun. -> the answer; empty if the process ended before"""
        with self._lock:
            if self._ahead is ahead:
                self._take_ahead()
        return ahead

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._owner == os.getpid():
            self._end()

    def _find_number(self, source: str) -> None:
        """Start the process, if it does not run, and make it know a template."""
        self._start()
        if source not in self._numbers:
            self._compile(source)  # which it did before, or there were no template

    def _compile(self, source: str) -> list[Any]:
        self._start()
        if len(self._numbers) >= KEPT:  # the oldest, of which nobody may have need any more
            self._ask("forget", self._numbers.pop(next(iter(self._numbers))))
        number = next(self._next)
        answer = self._ask("compile", number, source)
        if answer[0] == "names":
            self._numbers[source] = number
        return answer

    def _start(self) -> None:
        """Start the process, unless it runs. One that a parent of this process has is not ours."""
        is_own = self._owner == os.getpid()
        if is_own and self._ahead is not None:
            self._take_ahead()  # which may end the process: not for what is asked now
        if is_own and self._process is not None:
            return
        self._process, self._ahead, self._owner = None, None, os.getpid()
        self._numbers.clear()
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "hermes.chat_templates.render_process",
                    str(self.memory),
                    str(self.seconds),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=os.environ | {"PYTHONPATH": paths},
                start_new_session=True,  # so that no signal to this one's group ends it
            )
        except OSError as error:
            raise DataError(
                f"cannot start the process that renders chat templates: {error.strerror}"
            ) from error

    def _ask(self, *request: Any) -> list[Any]:
        self._send(*request)
        return self._receive()

    def _send(self, *request: Any) -> None:
        """Send a request. What was begun is answered by now (`_start`): there is one at a time."""
        data = json.dumps(request, default=str).encode()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            write_all(process.stdin.fileno(), data)
        except OSError:
            raise _Ended(self._explain_end()) from None
        except BaseException:
            self._end()
            raise

    def _receive(self) -> list[Any]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            if sys.platform == "darwin":
                _watch_memory(process, self.memory)
            target = process.stdout.fileno()
            size = LENGTH.unpack(read_exactly(target, LENGTH.size))[0]
            answer: list[Any] = json.loads(read_exactly(target, size))
        except (OSError, EOFError):
            raise _Ended(self._explain_end()) from None
        except BaseException:  # an answer that nobody waits for must not be taken for the next one
            self._end()
            raise
        if answer[0] == "memory":
            self._end()  # it may have little left
        return answer

    def _take_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        with suppress(_Ended):  # each conversation is then rendered for itself, and says why
            answer = self._receive()
            if ahead is not None and answer[0] == "texts":
                ahead += answer[1]

    def explain_memory(self) -> str:
        """Say that a template needs too much memory."""
        return f"needs more than {self.memory / 2**30:g} GiB of memory"

    def _explain_end(self) -> str:
        code = self._end()
        if -code == signal.SIGXCPU:
            return f"takes more than {self.seconds} seconds"
        if -code == signal.SIGKILL:
            return self.explain_memory()
        return f"ends the process that renders it (exit status {code})"

    def _end(self) -> int:
        process, self._process, self._ahead = self._process, None, None
        self._numbers.clear()
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _watch_memory(process: "subprocess.Popen[bytes]", most: int) -> None:
    """Wait for an answer, and end the process where it grows: macOS bounds no address space."""
    assert process.stdout is not None
    while not select.select([process.stdout.fileno()], [], [], WATCH)[0]:
        found = subprocess.run(
            ["/bin/ps", "-o", "rss=", "-p", str(process.pid)], capture_output=True, check=False
        )
        if found.stdout.strip().isdigit() and int(found.stdout) << 10 > most:
            process.kill()


_renderer = _Renderer()
atexit.register(_renderer.close)


def compile_template(source: str, where: str) -> set[str]:
    """Compile a template. -> the variables that it reads. Raises DataError."""
    answer = _request(where, "is not a Jinja template", lambda: _renderer.compile(source))
    if answer[0] == "names":
        return set(answer[1])
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
    """Begin to render beginnings of conversations: (messages, tools, [(count, prompt), ...]) each.

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
    except _Ended as error:
        raise DataError(f"{where} {fails}: it {error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: a message is nothing that JSON can hold: {error}") from None
