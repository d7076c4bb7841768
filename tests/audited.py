"""What Python does while a block runs, as its audit hooks are told of it.

A hook cannot be removed, so there is one for the process, which listens while a block is open.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Event = tuple[str, tuple[Any, ...]]
# What a file that is only read never leads to.
OUTWARD = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "os.posix_spawn"),
    *("subprocess.Popen", "pty.spawn", "socket.connect", "socket.bind", "socket.getaddrinfo"),
    *("pickle.find_class", "os.remove", "os.rename", "os.rmdir", "os.chmod", "shutil.rmtree"),
    *("urllib.Request", "webbrowser.open", "code.__new__"),
)
_listeners: list[list[Event]] = []
_hooked: list[bool] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    for events in _listeners:
        events.append((event, arguments))


@contextmanager
def listening() -> Iterator[list[Event]]:
    """A block during which every audit event of this process is appended to what it yields."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_listen)
    events: list[Event] = []
    _listeners.append(events)
    try:
        yield events
    finally:
        _listeners.remove(events)


def list_outward(events: list[Event]) -> list[Event]:
    """The events by which code that came from a file would act."""
    return [(name, arguments) for name, arguments in events if name in OUTWARD]


def list_opened(events: list[Event]) -> list[str]:
    """The names of files that were opened."""
    return [str(arguments[0]) for name, arguments in events if name == "open"]
