"""Processor time of other processes, by /proc or by ps."""

import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["list_descendants", "read_descendants_seconds", "read_seconds"]

PROC = Path("/proc/self/stat")


def read_seconds(pid: int) -> float:
    """Seconds that a process has computed, in all its threads; 0 where it is gone."""
    if not PROC.exists():
        return sum(seconds for one, _, seconds in _list_by_ps() if one == pid)
    return _read_stat(pid)[1]


def read_descendants_seconds() -> float:
    """Seconds that those have computed whom this process started, and whom they started.

    Who has ended is no longer counted: a sum that shrinks says nothing.
    """
    return sum(seconds for _, seconds in _find_descendants([os.getpid()]))


def list_descendants(*pids: int) -> list[int]:
    """The processes that these have started, and that those have started, of whatever depth."""
    return [pid for pid, _ in _find_descendants(pids)]


def _find_descendants(pids: Iterable[int]) -> list[tuple[int, float]]:
    """Each descendant of these processes, and the seconds that it has computed."""
    if not PROC.exists():
        rows = _list_by_ps()
    else:
        rows = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError, ValueError, IndexError):
                    rows.append((int(entry), *_read_stat(int(entry))))
    children: dict[int, list[tuple[int, float]]] = {}
    for pid, parent, seconds in rows:
        children.setdefault(parent, []).append((pid, seconds))
    found, left = [], list(pids)
    while left:
        for pid, seconds in children.pop(left.pop(), []):
            found.append((pid, seconds))
            left.append(pid)
    return found


def _read_stat(pid: int) -> tuple[int, float]:
    """Whom a process was started by, and the seconds that it has computed; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0, 0.0
    words = text.rpartition(")")[2].split()
    return int(words[1]), (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _list_by_ps() -> list[tuple[int, int, float]]:
    """Each process, whom it was started by, and its seconds. macOS has no /proc."""
    words = ["ps", "-axo", "pid=,ppid=,time="]
    text = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    rows = [line.split() for line in text.splitlines()]
    return [(int(pid), int(parent), _parse_time(spent)) for pid, parent, spent in rows]


def _parse_time(text: str) -> float:
    """Seconds of ps's [[days-]hours:]minutes:seconds."""
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds + 86_400 * int(days or 0)
