"""`python -m hermes_conformance.mutants.server`: forks a process for each text to judge.

A mutant takes a second or two where the framework and the cases are there already, and five to
ten where they are not. So this process imports what the first one, which judged the backend as it
is, had imported, and forks; but for the backend's own package, which each child imports anew. It
computes nothing itself: a framework that has threads cannot be forked, so where importing one
starts any, and on systems other than Linux, only the suite is there already.

Requests and answers are lines of JSON, on standard input and output.
"""

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hermes_conformance.mutants import judge

Message = dict[str, Any]
ACTIONS: dict[str, Callable[[Message], Message]] = {"record": judge.record, "judge": judge.judge}


def main() -> None:
    """Answer each line of standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    judge.prepare_cases()
    for line in sys.stdin:
        request = json.loads(line)
        if request["action"] == "import":
            answer = import_modules(request["modules"])
        else:
            answer = run_in_child(ACTIONS[request["action"]], request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def import_modules(modules: list[str]) -> Message:
    """Import what children would. -> whether this process can still be forked"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with suppress(Exception):
                importlib.import_module(name)
    return {"single": count_threads() == 1}


def count_threads() -> int:
    """The threads of this process; 0 where that is not known."""
    folder = Path("/proc/self/task")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def run_in_child(action: Callable[[Message], Message], request: Message) -> Message:
    """What action(request) returns, from a forked process with limits.

    {"how": why not} where it returns nothing: it raised, a signal ended it, or time ran out.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _run_as_child(action, request, writer)
    os.close(writer)
    text = _read_until(reader, time.monotonic() + request["wall_seconds"])
    os.close(reader)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if text:
        answer: Message = json.loads(text)
        return answer
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return {"how": f"takes more than {request['cpu_seconds']} s of processor time"}
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        return {"how": f"is ended by {signal.Signals(os.WTERMSIG(status)).name}"}
    return {"how": f"does not end within {request['wall_seconds']} s"}


def _run_as_child(action: Callable[[Message], Message], request: Message, writer: int) -> None:
    """Send the answer and end this process, without a step of Python's own ending."""
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
        seconds = request["cpu_seconds"]
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], request["memory"]))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        try:
            answer = action(request)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:160]
            answer = {"how": f"{type(error).__name__} in {last.name}: {text}"}
        data = json.dumps(answer).encode("utf-8")
        while data:
            data = data[os.write(writer, data) :]
        code = 0
    finally:
        os._exit(code)


def _read_until(reader: int, deadline: float) -> bytes:
    """All bytes until the other end closes; none if that is not before the deadline."""
    parts: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reader], [], [], left)[0]:
            part = os.read(reader, 1 << 20)
            if not part:
                return b"".join(parts)
            parts.append(part)
    return b""


if __name__ == "__main__":
    main()
