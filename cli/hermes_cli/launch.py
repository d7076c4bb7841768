"""Several processes for one command: where this one stands among them, and starting them here.

The one place that reads launchers' variables: torchrun's, Slurm's, mlx.launch's and mpirun's. All
but this machine's processes are started by those; here torch's elastic agent starts them, or for
MLX a ring on the loopback.
"""

import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from hermes.errors import HermesError, Interrupted, PeerLost
from hermes.processes import ALONE, Place, Processes
from hermes_cli.signals import Signals

if TYPE_CHECKING:
    from hermes.run import Request
    from hermes.seam import Backend, Options
    from hermes_cli.asked import Asked

__all__ = ["joined", "place_of", "placed", "quietly", "starts"]

GRACE = 8.0  # seconds that survivors have to notice, and to say what they saw
FIRST_TIMEOUT = 600.0
POLL = 0.1
OWN = "HERMES_LAUNCHED"  # in the environment of the processes that are started here


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
    asked: "Asked | Mapping[str, Any]", backend: "Backend", options: "Options", signals: Signals
) -> tuple[Processes, "Options"]:
    """The processes that a launcher started beside this one, and this one's device among them."""
    place = place_of(os.environ)
    if place is None or place.size == 1:
        return ALONE, options
    # At first a peer may read, compile and tokenize.
    timeout = asked["peer_timeout"]
    place = replace(place, timeout=timeout, first_timeout=max(timeout, FIRST_TIMEOUT))
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


def placed(
    context: click.Context, asked: "Asked | Mapping[str, Any]", request: "Request", signals: Signals
) -> "Request | None":
    """The request as this process's share of it; None where others were started and have ended."""
    if starts(context, asked, signals):
        return None
    processes, options = joined(asked, request.backend, request.options, signals)
    return replace(request, processes=processes, options=options)


class quietly:  # reads as a word in `with quietly(processes):`
    """A block whose refusals are rank 0's to tell: all processes have them alike."""

    def __init__(self, processes: Processes):
        self._rank = processes.place.rank

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        own = not isinstance(error, HermesError) or isinstance(error, PeerLost)
        if self._rank > 0 and isinstance(error, HermesError) and not own:
            raise click.exceptions.Exit(error.exit_code)


def starts(context: click.Context, asked: "Asked | Mapping[str, Any]", signals: Signals) -> bool:
    """Start the processes that were asked for and see them to their end; False: none were.

    Raises the error that their end amounts to.
    """
    gpus, processes = asked["num_gpus"], asked["num_processes"]
    number = processes if gpus == 1 else gpus
    if number < 1 or asked["max_restarts"] < 0 or asked["peer_timeout"] <= 0:
        raise HermesError(
            "--num-gpus and --num-processes must be at least 1, --max-restarts at least 0, "
            f"--peer-timeout above 0; got {gpus}, {processes}, {asked['max_restarts']} and "
            f"{asked['peer_timeout']:g}"
        )
    if number == 1 or place_of(os.environ) is not None:
        return False
    if gpus > 1 and processes > 1:
        raise HermesError("give --num-gpus or --num-processes, not both")
    from hermes.model import choose_backend

    backend = choose_backend(asked["backend"])
    _check(asked, backend, gpus, number)
    signals.polled = True
    start = _ring if backend.name == "mlx" else _elastic
    _Watch(start, list(context.find_root().obj), number, asked["max_restarts"], signals).see()
    return True


def _check(asked: "Asked | Mapping[str, Any]", backend: "Backend", gpus: int, number: int) -> None:
    here = [name for name in backend.devices() if name.startswith("cuda:")]
    if backend.name not in ("torch", "mlx"):
        raise HermesError(f"backend {backend.name!r} trains in one process")
    if gpus > 1 and backend.name == "mlx":
        raise HermesError("--num-gpus is for torch; several processes of mlx are --num-processes")
    if gpus > 1 and asked["device"] != "cpu" and len(here) < gpus:
        raise HermesError(
            f"--num-gpus {gpus}, but torch finds {len(here)} here; give fewer, or --device cpu "
            "for as many processes on the CPU"
        )
    if number > 1 and asked["max_restarts"] and backend.name == "mlx":
        raise HermesError("--max-restarts is for torch; start mlx again with --resume")
    if "-" in (asked["data"] or ("-",)):
        raise HermesError("several processes cannot share standard input; give --data F")


@dataclass(frozen=True)
class _Told:
    """What a process said at its end, or with no code at its beginning."""

    rank: int
    code: int | None
    lines: tuple[str, ...] = ()
    attempt: int = 0
    pid: int = 0


def _work(arguments: list[str], told: Any, environment: Mapping[str, str]) -> int:
    """One process: the same command, which finds its place in its environment."""
    from hermes_cli.main import run

    # A signal of the terminal reaches the launcher alone, which hands it on once.
    os.setsid()
    os.environ |= {**environment, OWN: "1"}
    rank = int(os.environ.get("RANK", os.environ.get("MLX_RANK", "0")))
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    told.put(_Told(rank, None, attempt=attempt, pid=os.getpid()))
    if attempt and "--resume" not in arguments:
        arguments = [*arguments, "--resume"]
    lines: list[str] = []
    code = run(arguments, lines.append)
    told.put(_Told(rank, code, (*lines,), attempt))
    if code == PeerLost.exit_code:
        sys.exit(code)  # a failure, after which torch's agent may start all anew
    return code


def _elastic(arguments: list[str], number: int, restarts: int, told: Any) -> None:
    """Start them by torch's elastic agent, and return when all have ended."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it says in its own logs is said here in a sentence.
    for name in ("torch.distributed", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=f"hermes-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=restarts,
    )
    try:
        elastic_launch(config, _work)(arguments, told, {})
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:
                told.put(_ended(rank, failure.pid, failure.exitcode))
            elif failure.exitcode != PeerLost.exit_code:
                trace = str(failure.message).strip()
                told.put(_Told(rank, 1, (f"Error: rank {rank} failed:\n{trace}",)))


def _ring(arguments: list[str], number: int, restarts: int, told: Any) -> None:
    """Start them as a ring of MLX on the loopback, and return when all have ended."""
    spawn = get_context("spawn")
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="hermes-ring-"))
        with ExitStack() as sockets:
            free = [sockets.enter_context(socket.socket()) for _ in range(number)]
            for one in free:
                one.bind(("127.0.0.1", 0))
            hosts = [[f"127.0.0.1:{one.getsockname()[1]}"] for one in free]
        Path(folder, "hosts.json").write_text(json.dumps(hosts), encoding="utf-8")
        started = []
        for rank in range(number):
            environment = {"MLX_RANK": str(rank), "MLX_HOSTFILE": f"{folder}/hosts.json"}
            worker = spawn.Process(target=_work, args=(arguments, told, environment), daemon=True)
            worker.start()
            started.append(worker)
        running, lost = dict(enumerate(started)), False
        while running:
            time.sleep(POLL)
            ended = [(w.exitcode, rank, w) for rank, w in running.items() if w.exitcode is not None]
            for code, rank, worker in sorted(ended, key=lambda one: one[:2]):
                del running[rank]
                if code == PeerLost.exit_code:
                    told.put(_Told(rank, code))  # in case it could say nothing
                elif code < 0 and not lost:  # who ends later was ended by us
                    told.put(_ended(rank, worker.pid, code))
                elif code > 0:
                    said = (f"Error: rank {rank} failed, as its traceback says",)
                    told.put(_Told(rank, 1, said))
                lost = lost or code != 0


def _ended(rank: int, pid: int | None, code: int) -> _Told:
    """Of a process that a signal ended; it comes before what the survivors say."""
    name = signal.Signals(-code).name
    line = f"Error: rank {rank} (process {pid}) was ended by {name}, so all ended"
    return _Told(-1, PeerLost.exit_code, (f"{line}; go on with --resume",))


class _Watch:
    """Sees started processes to their end: hands signals on, and ends who outlives a lost peer."""

    def __init__(
        self,
        start: Callable[[list[str], int, int, Any], None],
        arguments: list[str],
        number: int,
        restarts: int,
        signals: Signals,
    ):
        self._signals = signals
        self._queue = get_context("spawn").SimpleQueue()
        self._told: list[_Told] = []
        self._crashed: list[BaseException] = []
        self._thread = threading.Thread(
            target=self._run, args=(start, arguments, number, restarts), daemon=True
        )

    def _run(
        self, start: Callable[..., None], arguments: list[str], number: int, restarts: int
    ) -> None:
        try:
            start(arguments, number, restarts, self._queue)
        except BaseException as error:
            self._crashed.append(error)

    def see(self) -> None:
        """Until all have ended. Raises what their end amounts to."""
        handed_on, lost = False, None  # the attempt that lost a process, and when
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(POLL)
            self._drain()
            if self._signals.asked() and not handed_on:
                handed_on = True
                self._send(signal.SIGTERM, {child.pid for child in active_children()})
            losses = [one.attempt for one in self._told if one.code == PeerLost.exit_code]
            if losses and (lost is None or lost[0] != max(losses)):
                lost = max(losses), time.monotonic()
            if lost is not None and time.monotonic() - lost[1] > GRACE:
                # A stopped or endless process notices nothing else.
                pids = {one.pid for one in self._told if one.pid and one.attempt == lost[0]}
                self._send(signal.SIGKILL, pids)
        self._drain()
        if self._crashed:
            raise self._crashed[0]
        self._conclude()

    def _drain(self) -> None:
        while not self._queue.empty():
            self._told.append(self._queue.get())

    def _send(self, number: signal.Signals, pids: Collection[int | None]) -> None:
        for child in active_children():
            if child.pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, number)

    def _conclude(self) -> None:
        """Say once what several say, and end as they did."""
        last: dict[int, _Told] = {}
        for one in self._told:
            hushed = one.code == PeerLost.exit_code and not one.lines
            if one.code is not None and not (hushed and one.rank in last):
                last[one.rank] = one
        bad = sorted((one for one in last.values() if one.code), key=lambda one: one.rank)
        if not bad:
            return
        worst = next((one for one in bad if one.code != PeerLost.exit_code), bad[0])
        said = [one for one in bad if one.code == worst.code and one.lines]
        shown = list(dict.fromkeys(line for one in said for line in one.lines))
        if worst.code in (PeerLost.exit_code, Interrupted.exit_code):
            shown = shown[:1]
        for line in shown:
            click.echo(line, err=True)
        raise click.exceptions.Exit(worst.code or 0)
