"""Where this process stands among those of its run, as whoever started it said.

The one place that reads launchers' variables: torchrun's, Slurm's, mlx.launch's and mpirun's.
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import HermesError
from hermes.processes import ALONE, Place, Processes
from hermes_cli.journal import logs_of
from hermes_cli.signals import Signals

if TYPE_CHECKING:
    from hermes.seam import Backend, Options
    from hermes_cli.asked import Asked

__all__ = ["OWN", "backend_of", "joined", "place_of", "saving", "started_by"]

FIRST_TIMEOUT, MEETING_TIMEOUT = 600.0, 60.0
POLL = 0.1
OWN = "HERMES_LAUNCHED"  # in the environment of the processes that hermes itself started
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MPIRUN = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
# Whose processes a launcher starts.
MEANT = {"mlx.launch": "mlx", "mpirun": "mlx", "torchrun": "torch"}
BRACKETS = re.compile(r"\[([^\],-]+)[^\]]*\]")  # [01-04,07]


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Where a launcher put this process among others; None where it started no others.

    Raises HermesError.
    """
    try:
        place = _place(environment)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise HermesError(f"the launcher's variables cannot be read: {error!r}") from None
    return place if place is not None and place.size > 1 else None


def started_by(environment: Mapping[str, str]) -> str | None:
    """The launcher that started this process among others, unless that was hermes itself."""
    alone = OWN in environment or place_of(environment) is None
    return None if alone else _launcher(environment)


def _launcher(e: Mapping[str, str]) -> str | None:
    if "MLX_RANK" in e:
        return "mlx.launch"
    if all(name in e for name in TORCHRUN):
        return "torchrun"
    if all(name in e for name in MPIRUN):
        return "mpirun"
    # A batch script has SLURM_PROCID too; only what srun started has the step's.
    return "srun" if "SLURM_STEP_NUM_TASKS" in e and "SLURM_PROCID" in e else None


def _place(e: Mapping[str, str]) -> Place | None:
    match _launcher(e):
        case "mlx.launch":
            return _of_mlx(e)
        case "torchrun":
            return Place(*(int(e[name]) for name in TORCHRUN))
        case "mpirun":
            at = ":".join(e[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in e)
            place = Place(*(int(e[name]) for name in MPIRUN))
            return replace(place, meeting=at if ":" in at else None)
        case "srun":
            return _of_slurm(e)
    return None


def _of_mlx(e: Mapping[str, str]) -> Place:
    rank = int(e["MLX_RANK"])
    if "MLX_HOSTFILE" in e:
        hosts = [addresses[0].rpartition(":")[0] for addresses in _json(e, "MLX_HOSTFILE")]
        place = Place(rank, max(len(hosts), 1))
        mine = [number for number, host in enumerate(hosts) if host == hosts[rank]]
        return replace(place, local_rank=mine.index(rank), local_size=len(mine)) if mine else place
    if "MLX_IBV_DEVICES" in e:
        return Place(rank, len(_json(e, "MLX_IBV_DEVICES")))
    return Place(rank, int(e["MLX_WORLD_SIZE"]))


def _json(e: Mapping[str, str], name: str) -> Any:
    """What the file that a variable names holds; mlx.launch gives a lone host an empty one."""
    try:
        text = Path(e[name]).read_text(encoding="utf-8")
        return json.loads(text) if text.strip() else []
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except ValueError as error:
        reason = str(error)
    raise HermesError(f"{name} names {e[name]!r}, which cannot be read: {reason}")


def _of_slurm(e: Mapping[str, str]) -> Place:
    sizes: list[int] = []
    for part in e["SLURM_STEP_TASKS_PER_NODE"].split(","):  # 4(x2),3
        count, _, times = part.partition("(x")
        sizes += [int(count)] * int(times.rstrip(")") or 1)
    node = int(e["SLURM_NODEID"])
    if not 0 <= node < len(sizes):
        raise HermesError(
            f"SLURM_NODEID is {node}, and SLURM_STEP_TASKS_PER_NODE has {len(sizes)} nodes; nodes "
            "count from 0 to below their number"
        )
    # rack[1-2]-node[01-04,07],other begins with rack1-node01.
    first = BRACKETS.sub(r"\1", e["SLURM_STEP_NODELIST"]).partition(",")[0]
    host = e.get("MASTER_ADDR", first)
    port = e.get("MASTER_PORT", str(20_000 + int(e["SLURM_JOB_ID"]) % 20_000))
    place = Place(
        int(e["SLURM_PROCID"]), int(e["SLURM_STEP_NUM_TASKS"]), int(e["SLURM_LOCALID"]), sizes[node]
    )
    return replace(place, meeting=f"{host}:{port}")


def backend_of(name: str, environment: Mapping[str, str]) -> "Backend":
    """The backend of that name; "auto" is the one whose processes a launcher started, if any did.

    Raises HermesError where the launcher's processes are another backend's.
    """
    from hermes.model import choose_backend

    launcher = _launcher(environment) or ""
    meant, place = MEANT.get(launcher), place_of(environment)
    if meant is None or place is None or name == meant:
        return choose_backend(name)
    if name == "auto":
        return choose_backend(meant)
    if launcher == "mpirun" and place.meeting is None:
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
    from hermes.checkpoint import being_written

    return lambda: output is not None and being_written(Path(output))


def joined(
    context: click.Context,
    asked: "Asked | Mapping[str, Any]",
    backend: "Backend",
    options: "Options",
    signals: Signals,
) -> tuple[Processes, "Options"]:
    """The processes that a launcher started beside this one, and this one's device among them."""
    place = place_of(os.environ)
    if place is None:
        return ALONE, options
    # At first a peer may read, compile and tokenize.
    timeout = asked["peer_timeout"]
    place = replace(
        place,
        timeout=timeout,
        first_timeout=max(timeout, FIRST_TIMEOUT),
        meeting_timeout=max(timeout, MEETING_TIMEOUT),
    )
    tell, stacks = context.find_root().obj.tell, ""
    if asked["output"]:
        stacks = f"; stacks are in {logs_of(Path(asked['output']))}"
    saves = saving(asked["output"]) if place.rank == 0 else lambda: False

    def last_words(line: str) -> None:
        tell(f"Error: {line}{stacks}")
        end = time.monotonic() + timeout
        while saves() and time.monotonic() < end:
            time.sleep(POLL)

    place = replace(place, last_words=last_words)
    gpus = [name for name in backend.devices() if name.startswith("cuda:")]
    if gpus and options.device in (None, "cuda"):
        if place.local_rank >= len(gpus):
            raise HermesError(
                f"{place.local_size} processes on this machine, but {len(gpus)} GPUs; start as "
                "many processes as GPUs, or give --device cpu"
            )
        options = replace(options, device=gpus[place.local_rank])
    signals.silent = place.rank > 0 or OWN in os.environ  # another process says so
    return backend.join(place, options), options
