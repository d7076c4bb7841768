"""Ends a rank whose launcher is gone, so that no orphan goes on training.

hermes's own launcher, torchrun and mlx.launch start ranks as their children, on this machine or
through sshd. A rank whose parent died would train on with nobody to end it.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hermes.errors import PeerLost

__all__ = ["read_command", "watch_parent"]

POLL = 1.0
ELASTIC = "TORCHELASTIC_RUN_ID"  # torchrun's, whose agent is each worker's parent
# In the command line of the parent of a rank that mlx.launch started, here or on another machine.
MLX_PARENTS = ("mlx.launch", "mlx/_distributed_utils", "mlx._distributed_utils", "sshd")


def watch_parent(environment: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """End this process once its launcher is gone; whether a launcher that is watched started it.

    say: called with a sentence before. Ranks that somebody started by hand may outlive their shell.
    """
    parent = os.getppid()
    if ELASTIC not in environment and not _is_mlx_parent(environment, parent):
        return False
    threading.Thread(target=_wait, args=(parent, say), name="parent", daemon=True).start()
    return True


def _is_mlx_parent(environment: Mapping[str, str], parent: int) -> bool:
    if "MLX_RANK" not in environment:
        return False
    command = read_command(parent)
    return any(word in command for word in MLX_PARENTS)


def read_command(pid: int) -> str:
    """The command line of a process; empty where there is none."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it is gone, or the system has no such files
        words = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def _wait(parent: int, say: Callable[[str], None]) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    say(f"the launcher (process {parent}) is gone, so this rank ends; resume with --resume")
    os._exit(PeerLost.exit_code)
