"""The process that renders chat templates, as this one sees it: started, asked and ended."""

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hermes.chat_templates.render_process import LENGTH, read_exactly, write_all
from hermes.errors import DataError, explain_os_error
from hermes.formatting import format_count

__all__ = ["Ahead", "RenderClient", "RendererEnded"]

MEMORY = 2 << 30  # bytes of address space that the process may have
SECONDS = 10  # of processor time that one rendering may take, about
KEPT = 64  # templates that the process has compiled
WATCH = 0.2  # seconds between looks at the memory of a process that no limit bounds

Ahead = list[Any]
"""Of each conversation rendered ahead, its texts and the fields read; filled in later."""


class RendererEnded(Exception):
    """The process ended before it answered; says why."""


class RenderClient:
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
                f"cannot start the process that renders chat templates: {explain_os_error(error)}"
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
            raise RendererEnded(self._explain_end()) from None
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
            raise RendererEnded(self._explain_end()) from None
        except BaseException:  # an answer that nobody waits for must not be taken for the next one
            self._end()
            raise
        if answer[0] == "memory":
            self._end()  # it may have little left
        return answer

    def _take_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        with suppress(RendererEnded):  # each conversation is then rendered for itself, and says why
            answer = self._receive()
            if ahead is not None and answer[0] == "texts":
                ahead += answer[1]

    def explain_memory(self) -> str:
        """Say that a template needs too much memory."""
        return f"needs more than {self.memory / 2**30:g} GiB of memory"

    def _explain_end(self) -> str:
        code = self._end()
        if -code == signal.SIGXCPU:
            return f"takes more than {format_count(self.seconds, 'seconds')}"
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
