"""Which rank this process is, read from what its launcher put into the environment."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes.distributed.process_group import Place
from hermes.errors import HermesError

if TYPE_CHECKING:
    pass

__all__ = ["OWN", "place_of", "started_by"]


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
            return _ranks(e, TORCHRUN)
        case "mpirun":
            at = ":".join(e[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in e)
            return replace(_ranks(e, MPIRUN), meeting=at if ":" in at else None)
        case "srun":
            return _of_slurm(e)
    return None


def _ranks(e: Mapping[str, str], names: tuple[str, str, str, str]) -> Place:
    rank, size, local_rank, local_size = (int(e[name]) for name in names)
    return Place(rank, size, local_rank, local_size)


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
