"""Which rank this process is, read from what its launcher put into the environment."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.distributed.process_group import RankInfo
from hermes.errors import HermesError, explain_os_error
from hermes.formatting import format_count
from hermes.storage.plain_json import load_json

__all__ = ["OWN", "detect_launcher", "find_launcher", "read_rank_info"]


OWN = "HERMES_LAUNCHED"  # in the environment of the processes that hermes itself started
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MPIRUN = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
# Whose processes a launcher starts.
MEANT = {"mlx.launch": "mlx", "mpirun": "mlx", "torchrun": "torch"}
BRACKETS = re.compile(r"\[([^\],-]+)[^\]]*\]")  # [01-04,07]


def read_rank_info(environment: Mapping[str, str]) -> RankInfo | None:
    """This process's rank, as its launcher set it; None where it started no other processes.

    Raises HermesError.
    """
    try:
        rank_info = _read_rank_info(environment)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise HermesError(f"the launcher's variables cannot be read: {error!r}") from None
    return rank_info if rank_info is not None and rank_info.world_size > 1 else None


def find_launcher(environment: Mapping[str, str]) -> str | None:
    """The launcher that started this process and others, unless that was hermes itself."""
    alone = OWN in environment or read_rank_info(environment) is None
    return None if alone else detect_launcher(environment)


def detect_launcher(e: Mapping[str, str]) -> str | None:
    """The launcher that started this process, hermes itself included; None for none."""
    if "MLX_RANK" in e:
        return "mlx.launch"
    if all(name in e for name in TORCHRUN):
        return "torchrun"
    if all(name in e for name in MPIRUN):
        return "mpirun"
    # A batch script has SLURM_PROCID too; only what srun started has the step's.
    return "srun" if "SLURM_STEP_NUM_TASKS" in e and "SLURM_PROCID" in e else None


def _read_rank_info(e: Mapping[str, str]) -> RankInfo | None:
    match detect_launcher(e):
        case "mlx.launch":
            return _read_mlx(e)
        case "torchrun":
            return _read_ranks(e, TORCHRUN)
        case "mpirun":
            at = ":".join(e[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in e)
            return replace(_read_ranks(e, MPIRUN), rendezvous=at if ":" in at else None)
        case "srun":
            return _read_slurm(e)
    return None


def _read_ranks(e: Mapping[str, str], names: Sequence[str]) -> RankInfo:
    rank, size, local_rank, local_world_size = (int(e[name]) for name in names)
    return RankInfo(rank, size, local_rank, local_world_size)


def _read_mlx(e: Mapping[str, str]) -> RankInfo:
    rank = int(e["MLX_RANK"])
    if "MLX_HOSTFILE" in e:
        hosts = [addresses[0].rpartition(":")[0] for addresses in _read_json(e, "MLX_HOSTFILE")]
        rank_info = RankInfo(rank, max(len(hosts), 1))
        mine = [number for number, host in enumerate(hosts) if host == hosts[rank]]
        return (
            replace(rank_info, local_rank=mine.index(rank), local_world_size=len(mine))
            if mine
            else rank_info
        )
    if "MLX_IBV_DEVICES" in e:
        return RankInfo(rank, len(_read_json(e, "MLX_IBV_DEVICES")))
    return RankInfo(rank, int(e["MLX_WORLD_SIZE"]))


def _read_json(e: Mapping[str, str], name: str) -> Any:
    """What the file that a variable names holds; mlx.launch gives a lone host an empty one."""
    try:
        text = Path(e[name]).read_text(encoding="utf-8")
        return load_json(text) if text.strip() else []
    except OSError as error:
        reason = explain_os_error(error)
    except ValueError as error:
        reason = str(error)
    raise HermesError(f"{name} names {e[name]!r}, which cannot be read: {reason}")


def _read_slurm(e: Mapping[str, str]) -> RankInfo:
    sizes: list[int] = []
    for part in e["SLURM_STEP_TASKS_PER_NODE"].split(","):  # 4(x2),3
        count, _, times = part.partition("(x")
        sizes += [int(count)] * int(times.rstrip(")") or 1)
    node = int(e["SLURM_NODEID"])
    if not 0 <= node < len(sizes):
        raise HermesError(
            f"SLURM_NODEID is {node}, and SLURM_STEP_TASKS_PER_NODE has "
            f"{format_count(len(sizes), 'nodes')}; nodes count from 0 to below their number"
        )
    # rack[1-2]-node[01-04,07],other begins with rack1-node01.
    first = BRACKETS.sub(r"\1", e["SLURM_STEP_NODELIST"]).partition(",")[0]
    host = e.get("MASTER_ADDR", first)
    port = e.get("MASTER_PORT", str(20_000 + int(e["SLURM_JOB_ID"]) % 20_000))
    rank_info = RankInfo(
        int(e["SLURM_PROCID"]), int(e["SLURM_STEP_NUM_TASKS"]), int(e["SLURM_LOCALID"]), sizes[node]
    )
    return replace(rank_info, rendezvous=f"{host}:{port}")
