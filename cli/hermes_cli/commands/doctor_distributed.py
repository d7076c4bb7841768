"""`hermes doctor --distributed`: check that several processes can train together."""

import hashlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.distributed.environment import read_rank_info
from hermes.errors import HermesError, describe_error, explain_os_error
from hermes.formatting import format_count
from hermes_cli.launch.crash_log import CrashLog
from hermes_cli.launch.join import find_launched_backend, join
from hermes_cli.launch.launcher import start_workers

if TYPE_CHECKING:
    from hermes.distributed.process_group import ProcessGroup
    from hermes.interface import Backend

__all__ = ["examine"]

SUMMED_FLOATS = 1 << 22  # 16 MiB of float32
SUMS = 4
MAX_CLOCK_SKEW = 2.0  # seconds
CLOCK_LOOKS = 3  # in one of which no process has to wait for a processor before it looks

# What was checked, in words, and the problems that were found.
Finding = tuple[str, list[str]]


def examine(context: click.Context) -> None:
    """Start the processes or join those of a launcher, and check what they need of each other.

    Raises HermesError if a check fails.
    """
    from hermes.interface import Options

    data = context.params["data"]
    given = {**context.params, "max_restarts": 0, "force": None, "data": data or ("none",)}
    signals = context.find_root().obj.signals
    if start_workers(context, given, signals):
        return
    if read_rank_info(os.environ) is None:
        raise HermesError(
            "--distributed examines several processes: give --num-gpus N or --num-processes "
            "N, or start it by torchrun, srun or mlx.launch"
        )
    backend = find_launched_backend(given["backend"], os.environ)
    options = Options(device=given["device"])
    process_group, options = join(context, given, backend, options, signals)
    # No check compiles or tokenizes, so no rank needs the long timeout of a run's first step.
    process_group.mark_first_step_done()
    process_group.rank_info.on_first_step()
    with CrashLog(process_group, None):
        found = _check_all(process_group, backend, data, given["output"])
        _report(process_group, found, as_json=given["as_json"])
    process_group.close()


def _check_all(
    process_group: "ProcessGroup", backend: "Backend", data: Sequence[str], output: str | None
) -> list[Finding]:
    """Run every check; all ranks get the same findings."""
    found = [
        _check_hosts(process_group),
        _check_software(process_group, backend.versions()),
        _check_clocks(process_group),
    ]
    found.append(_check_sum(process_group))
    if any(name.startswith("cuda") for name in backend.devices()):
        found.append(_check_gpus(process_group))
    if data:
        found.append(_check_data(process_group, data))
    if output:
        found.append(_check_shared_folder(process_group, Path(output)))
    return found


def _check_hosts(process_group: "ProcessGroup") -> Finding:
    hosts = process_group.all_gather_text(socket.gethostname())
    size = process_group.rank_info.world_size
    return f"{format_count(size, 'processes', 'process')}, on {', '.join(hosts)}", []


def _list_differences(told: list[str]) -> list[str]:
    """A sentence for each rank that differs from rank 0."""
    return [f"rank {r} has {t}, rank 0 {told[0]}" for r, t in enumerate(told) if t != told[0]]


def _check_software(process_group: "ProcessGroup", versions: Mapping[str, str]) -> Finding:
    here = {"hermes": version("hermes-llm"), "python": sys.version.split()[0], **versions}
    told = process_group.all_gather_text(json.dumps(here))
    wrong = [f"{one}; install the same versions on all" for one in _list_differences(told)]
    return f"software {told[0]}", wrong


def _check_clocks(process_group: "ProcessGroup") -> Finding:
    skew = min(_measure_skew(process_group) for _ in range(CLOCK_LOOKS))
    problem = f"clocks are {skew:.0f} s apart; synchronize them with NTP"
    wrong = [] if skew < MAX_CLOCK_SKEW else [problem]
    return f"clocks within {skew:.2f} s", wrong


def _measure_skew(process_group: "ProcessGroup") -> float:
    now = [float(text) for text in process_group.all_gather_text(repr(time.time()))]
    return max(now) - min(now)


def _check_data(process_group: "ProcessGroup", data: Sequence[str]) -> Finding:
    """Check that the first process of each machine reads the same bytes."""
    mine, problem = "", ""
    try:
        if process_group.rank_info.local_rank == 0:
            mine = _hash_files(data)
    except (HermesError, OSError) as error:
        problem = describe_error(error)
    problems = process_group.all_gather_text(problem)
    blind = [
        f"rank {rank} cannot read the data: {text}" for rank, text in enumerate(problems) if text
    ]
    machines = [
        (rank, text) for rank, text in enumerate(process_group.all_gather_text(mine)) if text
    ]
    first, theirs = machines[0] if machines else (0, "none")
    wrong = [
        f"rank {rank} reads data {text}, rank {first} {theirs}; copy the same files to all machines"
        for rank, text in machines
        if text != theirs
    ]
    return f"data {theirs} on {format_count(len(machines), 'machines')}", blind + wrong


def _hash_files(data: Sequence[str]) -> str:
    """A short SHA-256 of the files, with their number and size."""
    from hermes.data import expand_paths

    whole, count, size = hashlib.sha256(), 0, 0
    for path in expand_paths(data):
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
        count, size = count + 1, size + os.path.getsize(path)
    return f"{whole.hexdigest()[:12]} ({format_count(count, 'files')}, {size:,} bytes)"


def _check_gpus(process_group: "ProcessGroup") -> Finding:
    said = process_group.all_gather_text("; ".join(process_group.diagnostics()))
    return "GPUs that read each other's memory", [text for text in said if text]


def _check_sum(process_group: "ProcessGroup") -> Finding:
    trials = [process_group.time_all_reduce(SUMMED_FLOATS) for _ in range(SUMS)]
    right = process_group.all_reduce_max(float(not all(ok for _, ok in trials))) == 0
    # The first sum also opens the connections, so its time does not count.
    seconds = process_group.all_reduce_max(min(seconds for seconds, _ in trials[1:]))
    size = process_group.rank_info.world_size
    # What each rank sends in a ring all-reduce, in bytes.
    sent = 2 * (size - 1) / size * SUMMED_FLOATS * 4
    rate = sent / max(seconds, 1e-9) / 1e9
    wrong = [] if right else ["a sum over all processes is wrong; set NCCL_DEBUG=INFO and look"]
    mebibytes = SUMMED_FLOATS * 4 >> 20
    return f"sum of {mebibytes} MiB in {seconds * 1e3:.1f} ms, {rate:.2f} GB/s each", wrong


def _check_shared_folder(process_group: "ProcessGroup", folder: Path) -> Finding:
    """Check that all ranks see what rank 0 writes into the folder."""
    rank, word = process_group.rank_info.rank, secrets.token_hex(8)
    word = process_group.all_gather_text(word)[0]
    path, problem = folder / f".tmp-doctor-{word}", ""
    try:
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(word, encoding="utf-8")
    except OSError as error:
        problem = f"rank 0 cannot write into {folder}: {explain_os_error(error)}"
    problem = process_group.all_gather_text(problem)[0]
    seen = process_group.all_gather_text("" if path.exists() else "missing")
    if rank == 0:
        path.unlink(missing_ok=True)
    blind = [f"rank {r}" for r, text in enumerate(seen) if text]
    if not problem and blind:
        problem = (
            f"{', '.join(blind)} does not see what rank 0 writes into {folder}; --output must be "
            "on a file system that all machines share, or a run cannot be resumed on them"
        )
    return f"folder {folder} seen by all", [problem] if problem else []


def _report(process_group: "ProcessGroup", found: Sequence[Finding], *, as_json: bool) -> None:
    failed = sum(bool(problems) for _, problems in found)
    if process_group.rank_info.rank == 0 and as_json:
        checks = [{"looked_at": words, "wrong": problems} for words, problems in found]
        click.echo(json.dumps({"good": not failed, "checks": checks}, indent=2))
    elif process_group.rank_info.rank == 0:
        for words, problems in found:
            click.echo("\n".join(f"wrong: {one}" for one in problems) or f"good: {words}")
    if failed:
        raise HermesError(f"{failed} of {format_count(len(found), 'checks')} failed").mark_shared()
