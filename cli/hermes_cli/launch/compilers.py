"""Ends the compilers that a command waits for once it was told to end.

MLX starts one after another through a shell and waits for each; a signal that only this process was
sent, as by kill, Slurm or Docker, does not reach them.
"""

import os
import re
import signal
from collections.abc import Iterable
from contextlib import suppress

from hermes.distributed.processor_time import list_descendants
from hermes_cli.launch.parent_watch import read_command

__all__ = ["end_compilers"]

COMPILER = re.compile(r"(\S+-)?(g\+\+|c\+\+|clang\+\+|cc1plus)(-[\d.]+)?")
SHELLS = ("sh", "bash", "dash", "zsh")


def end_compilers() -> None:
    """Send SIGTERM to the compilers that this process has started, and to what those have."""
    found = [pid for pid in list_descendants(os.getpid()) if is_compiler(read_command(pid))]
    _send(signal.SIGSTOP, found)  # so that none of them starts another, which nobody would end
    ended = {*found, *list_descendants(*found)}
    _send(signal.SIGTERM, ended)
    _send(signal.SIGCONT, ended)


def _send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(OSError):  # it is gone
            os.kill(pid, number)


def is_compiler(command: str) -> bool:
    """Whether a command line is that of a C++ compiler, or of a script that stands for one.

    A shell with a command in its line is none: it has to say by its exit code how the compiler that
    it started has ended, which MLX reads.
    """
    first, *more = [os.path.basename(word) for word in command.split()[:2]] or [""]
    name = more[0] if first in SHELLS and more else first
    return COMPILER.fullmatch(name) is not None
