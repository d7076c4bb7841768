"""Where this process stands among those of its run, as whoever started it said.

The one place that reads launchers' variables: torchrun's, Slurm's, mlx.launch's and mpirun's.
"""

import json
import os
import re
from collections.abc import Mapping
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

__all__ = ["OWN", "joined", "place_of"]

FIRST_TIMEOUT = 600.0
OWN = "HERMES_LAUNCHED"  # in the environment of the processes that hermes itself started


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Where a launcher put this process; None where none did. Raises HermesError."""
    e = environment
    try:
        if "MLX_RANK" in e:
            return _of_mlx(e)
        for names in (
            ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
            (*("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
             "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ):  # fmt: skip
            if all(name in e for name in names):
                return Place(*(int(e[name]) for name in names))
        # A batch script has SLURM_PROCID too; only what srun started has the step's.
        if "SLURM_STEP_NUM_TASKS" in e and "SLURM_PROCID" in e:
            return _of_slurm(e)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise HermesError(f"the launcher's variables cannot be read: {error!r}") from None
    return None


def _of_mlx(e: Mapping[str, str]) -> Place:
    rank = int(e["MLX_RANK"])
    if "MLX_HOSTFILE" in e:
        hosts = [addresses[0].rpartition(":")[0] for addresses in _json(e["MLX_HOSTFILE"])]
        mine = [number for number, host in enumerate(hosts) if host == hosts[rank]]
        return Place(rank, len(hosts), mine.index(rank), len(mine))
    if "MLX_IBV_DEVICES" in e:
        return Place(rank, len(_json(e["MLX_IBV_DEVICES"])))
    return Place(rank, int(e["MLX_WORLD_SIZE"]))


def _json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _of_slurm(e: Mapping[str, str]) -> Place:
    sizes: list[int] = []
    for part in e["SLURM_STEP_TASKS_PER_NODE"].split(","):  # 4(x2),3
        count, _, times = part.partition("(x")
        sizes += [int(count)] * int(times.rstrip(")") or 1)
    # node[01-04,07] and node01,node02 both begin with the first.
    first = re.sub(r"\[(\w+).*", r"\1", e["SLURM_STEP_NODELIST"]).partition(",")[0]
    host = e.get("MASTER_ADDR", first)
    port = e.get("MASTER_PORT", str(20_000 + int(e["SLURM_JOB_ID"]) % 20_000))
    place = Place(
        int(e["SLURM_PROCID"]),
        int(e["SLURM_STEP_NUM_TASKS"]),
        int(e["SLURM_LOCALID"]),
        sizes[int(e["SLURM_NODEID"])],
    )
    return replace(place, meeting=f"{host}:{port}")


def joined(
    context: click.Context,
    asked: "Asked | Mapping[str, Any]",
    backend: "Backend",
    options: "Options",
    signals: Signals,
) -> tuple[Processes, "Options"]:
    """The processes that a launcher started beside this one, and this one's device among them."""
    place = place_of(os.environ)
    if place is None or place.size == 1:
        return ALONE, options
    # At first a peer may read, compile and tokenize.
    timeout = asked["peer_timeout"]
    place = replace(place, timeout=timeout, first_timeout=max(timeout, FIRST_TIMEOUT))
    tell, stacks = context.find_root().obj.tell, ""
    if asked["output"]:
        stacks = f"; stacks are in {logs_of(Path(asked['output']))}"
    place = replace(place, last_words=lambda line: tell(f"Error: {line}{stacks}"))
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
