"""Where this process stands among those of its run, as whoever started it said.

The one place that reads launchers' variables: torchrun's, Slurm's, mlx.launch's and mpirun's.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.distributed.environment import MEANT, OWN, _find_launcher, read_rank_info
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.errors import HermesError
from hermes_cli.launch.crash_log import logs_of
from hermes_cli.launch.signals import Signals

if TYPE_CHECKING:
    from hermes.interface import Backend, Options
    from hermes_cli.options.resolve import ResolvedOptions

__all__ = [
    "backend_of",
    "joined",
    "saving",
]

FIRST_TIMEOUT, MEETING_TIMEOUT = 600.0, 60.0
POLL = 0.1


def backend_of(name: str, environment: Mapping[str, str]) -> "Backend":
    """The backend of that name; "auto" is the one whose processes a launcher started, if any did.

    Raises HermesError where the launcher's processes are another backend's.
    """
    from hermes.interface import choose_backend

    launcher = _find_launcher(environment) or ""
    meant, rank_info = MEANT.get(launcher), read_rank_info(environment)
    if meant is None or rank_info is None or name == meant:
        return choose_backend(name)
    if name == "auto":
        return choose_backend(meant)
    if launcher == "mpirun" and rank_info.rendezvous is None:
        raise HermesError(
            f"mpirun does not say where processes of {name} meet; set MASTER_ADDR and MASTER_PORT, "
            "or start them by torchrun, srun or --num-gpus"
        )
    if launcher != "mpirun":
        others = {"torch": "torchrun, srun or --num-gpus", "mlx": "mlx.launch or --num-processes"}
        raise HermesError(
            f"{launcher} starts processes of {meant}, and --backend is {name}; leave it out, or "
            f"start {name} by {others.get(name, 'itself, in one process')}"
        )
    return choose_backend(name)


def saving(output: str | None) -> Callable[[], bool]:
    """Says whether a checkpoint of the run in that folder is being written."""
    from hermes.checkpoint import has_unfinished

    return lambda: output is not None and has_unfinished(Path(output))


def joined(
    context: click.Context,
    asked: "ResolvedOptions | Mapping[str, Any]",
    backend: "Backend",
    options: "Options",
    signals: Signals,
) -> tuple[ProcessGroup, "Options"]:
    """The processes that a launcher started beside this one, and this one's device among them."""
    rank_info = read_rank_info(os.environ)
    if rank_info is None:
        return SINGLE_PROCESS, options
    # At first a peer may read, compile and tokenize.
    timeout = asked["peer_timeout"]
    rank_info = replace(
        rank_info,
        timeout=timeout,
        first_timeout=max(timeout, FIRST_TIMEOUT),
        rendezvous_timeout=max(timeout, MEETING_TIMEOUT),
    )
    tell, stacks = context.find_root().obj.tell, ""
    if asked["output"]:
        stacks = f"; stacks are in {logs_of(Path(asked['output']))}"
    saves = saving(asked["output"]) if rank_info.rank == 0 else lambda: False

    def last_words(line: str) -> None:
        tell(f"Error: {line}{stacks}")
        end = time.monotonic() + timeout
        while saves() and time.monotonic() < end:
            time.sleep(POLL)

    rank_info = replace(rank_info, last_words=last_words)
    gpus = [name for name in backend.devices() if name.startswith("cuda:")]
    if gpus and options.device in (None, "cuda"):
        if rank_info.local_rank >= len(gpus):
            raise HermesError(
                f"{rank_info.local_world_size} processes on this machine, but {len(gpus)} GPUs; "
                "start as many processes as GPUs, or give --device cpu"
            )
        options = replace(options, device=gpus[rank_info.local_rank])
    signals.silent = rank_info.rank > 0 or OWN in os.environ  # another process says so
    return backend.join(rank_info, options), options
