"""Joins a command's process to the other ranks, with the command line's own last words."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.distributed.environment import OWN
from hermes.distributed.join import choose_backend_name, find_rank_info, join_watched
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes_cli.launch.crash_log import write_stacks
from hermes_cli.launch.parent_watch import watch_parent
from hermes_cli.launch.signals import Signals

if TYPE_CHECKING:
    from hermes.interface import Backend, Options
    from hermes_cli.options.resolve import ResolvedOptions

__all__ = ["find_launched_backend", "is_saving", "join"]

POLL = 0.1


def find_launched_backend(name: str, environment: Mapping[str, str]) -> "Backend":
    """The backend of that name; "auto" is the one whose processes a launcher started, if any did.

    Raises HermesError where the launcher's processes are another backend's.
    """
    from hermes.interface import choose_backend

    return choose_backend(choose_backend_name(name, environment))


def is_saving(output: str | None) -> Callable[[], bool]:
    """A function that says whether a checkpoint of the run in that folder is being written."""
    from hermes.checkpoint import has_unfinished

    return lambda: output is not None and has_unfinished(Path(output))


def join(
    context: click.Context,
    asked: "ResolvedOptions | Mapping[str, Any]",
    backend: "Backend",
    options: "Options",
    signals: Signals,
) -> tuple[ProcessGroup, "Options"]:
    """Join the ranks that a launcher started; the process group, and this rank's device."""
    rank_info = find_rank_info(os.environ, asked["peer_timeout"])
    if rank_info is None:
        return SINGLE_PROCESS, options
    tell, rank = context.find_root().obj.tell, rank_info.rank
    patience = rank_info.timeout
    saves = is_saving(asked["output"]) if rank_info.rank == 0 else lambda: False

    def last_words(line: str) -> None:
        stacks = write_stacks(Path(asked["output"]), rank) if asked["output"] else ""
        tell(f"Error: {line}{stacks}")
        end = time.monotonic() + patience
        while saves() and time.monotonic() < end:
            time.sleep(POLL)

    if OWN not in os.environ:  # a worker of this launcher watches it already
        watch_parent(os.environ, lambda line: tell(f"Error: {line}"))
    signals.silent = rank_info.rank > 0 or OWN in os.environ  # another process says so
    rank_info = replace(
        rank_info, last_words=last_words, on_first_step=lambda: signals.on_first_step()
    )
    group, options, end_watch = join_watched(
        rank_info, backend, options, os.environ, "--peer-timeout"
    )
    context.call_on_close(end_watch)
    signals.on_join()
    return group, options
