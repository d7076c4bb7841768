"""Starts several processes on this machine for one command.

Torch's elastic agent starts them, or for MLX a ring on the loopback interface. Across machines
torchrun, srun, mpirun or mlx.launch start them, and they find their rank in those variables.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.distributed.environment import OWN, read_rank_info
from hermes.distributed.join import set_timeouts
from hermes.distributed.process_group import RankInfo, exit_without_teardown
from hermes.errors import (
    HermesError,
    Interrupted,
    NonFinite,
    PeerLost,
    StorageError,
    explain_os_error,
)
from hermes.formatting import format_count
from hermes_cli.display.robust_stderr import make_stderr_robust
from hermes_cli.launch.join import find_launched_backend, is_saving
from hermes_cli.launch.pulse import Pulse, get_pulse_path
from hermes_cli.launch.signals import CAUGHT, Signals, write_to
from hermes_cli.launch.stderr_filter import filter_stderr, redirect_stderr
from hermes_cli.launch.supervisor import LONGEST_GRACE, POLL, Death, Writing, supervise
from hermes_cli.launch.worker_status import StatusFile, read_statuses
from hermes_cli.options.resolve import ResolvedOptions

if TYPE_CHECKING:
    from hermes.interface import Backend

__all__ = ["hold_free_ports", "start_workers"]

# What runs a command line, and its arguments; worker processes are handed both.
Command = tuple[Callable[[list[str], Callable[[str], None], Signals], int], list[str]]

REFUSALS = {HermesError.exit_code, click.UsageError.exit_code, NonFinite.exit_code}
LOOPBACK = "127.0.0.1"
MOST_PER_CORE = 8  # processes; more are a mistake
ANSWER = 10.0  # seconds for a connection on this machine
TORCH_LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
# A process that multiprocessing starts looks for modules in the working folder first, until it has
# this one's paths: a file json.py there, of whoever made the folder, would be run. By a value of
# our own a worker knows that nobody else asked for it, and does not hand it on.
SAFE_PATH, OURS = "PYTHONSAFEPATH", "hermes"
NO_TRACE = "To enable traceback see"  # torch's word for having none


def start_workers(
    context: click.Context,
    asked: ResolvedOptions | Mapping[str, Any],
    signals: Signals,
    words: str = "",
) -> bool:
    """Start the workers that were asked for and wait for them; False where none were.

    words: what is said at a signal once the workers have met. Raises click's Exit with their exit
    code.
    """
    gpus, processes = asked["num_gpus"], asked["num_processes"]
    number = processes if gpus == 1 else gpus
    for option in ("num_gpus", "num_processes"):
        if asked[option] < 1:
            raise HermesError(
                f"--{option.replace('_', '-')} must be at least 1, got {asked[option]}"
            )
    if asked["max_restarts"] < 0:
        raise HermesError(f"--max-restarts must be at least 0, got {asked['max_restarts']}")
    limits = set_timeouts(RankInfo(), asked["peer_timeout"], "--peer-timeout")
    if number == 1 or OWN in os.environ:
        return False
    if gpus > 1 and processes > 1:
        raise HermesError("give --num-gpus or --num-processes, not both")
    if rank_info := read_rank_info(os.environ):
        _check_launcher(rank_info, f"--num-{'gpus' if gpus > 1 else 'processes'} {number}", number)
        return False
    _check_count(gpus, processes, force=asked["force"])
    with _filter_torch_log():
        backend = find_launched_backend(asked["backend"], os.environ)
    _check_request(asked, backend, gpus, number)
    check_surroundings(backend.name)
    signals.raise_if_come()
    call, restarts = context.find_root().obj, asked["max_restarts"]
    command = (call.run, list(call.arguments))
    writing = Writing(is_saving(asked["output"]), limits.timeout)

    def start(folder: str) -> Death | None:
        if backend.name == "mlx":
            return _start_ring(command, number, folder, writing)
        return _start_elastic(command, number, folder, restarts)

    with _leave_out_working_folder():
        supervise(
            start, signals, restarts, writing=writing, work_limit=limits.work_timeout, words=words
        )
    return True


@contextmanager
def _leave_out_working_folder() -> Iterator[None]:
    """A block in which processes that are started take no module from the working folder."""
    given = SAFE_PATH in os.environ
    os.environ.setdefault(SAFE_PATH, OURS)
    try:
        yield
    finally:
        if not given:
            del os.environ[SAFE_PATH]


@contextmanager
def _filter_torch_log() -> Iterator[None]:
    """A block in which torch is imported without the warnings of its C++ code, in this process.

    Where the agent loses its store they are pages of stack frames before the one sentence.
    """
    given = TORCH_LOG_LEVEL in os.environ
    os.environ.setdefault(TORCH_LOG_LEVEL, "ERROR")
    try:
        yield
    finally:
        if not given:  # workers log as they would
            del os.environ[TORCH_LOG_LEVEL]


def _check_launcher(rank_info: RankInfo, option: str, number: int) -> None:
    """Refuse a launcher that started another number of processes. Raises HermesError."""
    if number not in (rank_info.world_size, rank_info.local_world_size):
        raise HermesError(
            f"{option}, but a launcher started {rank_info.world_size} processes, "
            f"{rank_info.local_world_size} on this machine; "
            "leave it out, or have the launcher start one"
        )


def _check_count(gpus: int, processes: int, *, force: bool | None) -> None:
    """Refuse many more processes than cores, before anything starts.

    No machine has so many devices either: each is fed by a core. force: None where it is no option.
    """
    from hermes.model_info.machine import count_cores  # NumPy's time, which --help does not have

    number, cores = max(gpus, processes), count_cores()
    if number > MOST_PER_CORE * cores and not force:
        option = "--num-gpus" if gpus > 1 else "--num-processes"
        has = format_count(cores, "cores", "core")
        ways = "" if force is None else ", or --force to try"
        raise HermesError(
            f"{option} {number} on a machine of {has}: that many processes would take its memory "
            f"and wait for each other; choose at most {MOST_PER_CORE * cores}{ways}"
        )


def _check_request(
    asked: ResolvedOptions | Mapping[str, Any], backend: "Backend", gpus: int, number: int
) -> None:
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


def check_surroundings(backend_name: str) -> None:
    """Look for what processes of this machine need to meet and start. Raises HermesError.

    Without it torch says so in pages of stack frames, or MLX waits until it seems to hang.
    """
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=ANSWER).close()
    except OSError as error:
        raise HermesError(
            f"the processes would meet at {LOOPBACK}, which cannot be reached "
            f"({explain_os_error(error)}); bring up the loopback interface, or train in one process"
        ) from error
    if backend_name == "torch":
        try:
            get_context("fork").Lock()  # which starts no process
        except OSError as error:
            raise StorageError(
                "torch starts processes with semaphores, which cannot be made in /dev/shm: "
                f"{explain_os_error(error)}; make it writable, or train in one process"
            ) from error


def _run_worker(command: Command, folder: str, environment: Mapping[str, str]) -> int:
    """Run the same command in a worker, which finds its rank in its environment."""
    ended = exit_without_teardown()
    # A signal of the terminal reaches the launcher alone, which hands it on once.
    os.setsid()
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]
    os.environ.pop("MLX_RANK", None)  # of mlx.launch, which started the one that starts these
    os.environ |= {**environment, OWN: "1"}
    rank = int(os.environ.get("MLX_RANK", os.environ.get("RANK", "0")))
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if attempt and _has_refused(folder, attempt - 1):
        return 0
    report = StatusFile(folder, rank, attempt)
    with Signals(report.write_interrupted) as signals:
        pulse = Pulse(get_pulse_path(folder, attempt, rank))

        def on_join() -> None:
            report.write_joined()
            pulse.start()

        signals.on_join, signals.on_first_step = on_join, pulse.stop
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)  # the supervisor's thread blocks them
        threading.Thread(target=_end_with_launcher, daemon=True).start()
        redirect_stderr(folder)
        write_to(make_stderr_robust())
        run, arguments = command
        if attempt and not {"--resume", "--auto-resume"} & {*arguments}:
            arguments = [*arguments, "--resume"]
        code = run(arguments, report.write_line, signals)
        signals.finish(code)
        report.write_exit_code(code)
        if code in (0, Interrupted.exit_code):  # what there is to say is in the report
            ended(0)
            return code
        # By its connections that close the others notice; torch keeps who returns until all have.
        ended(code)
        sys.exit(code)


def _end_with_launcher() -> None:
    """End this worker when the launcher was killed, as its single process would have ended."""
    if launcher := parent_process():
        launcher.join()
        os._exit(PeerLost.exit_code)


def _has_refused(folder: str, attempt: int) -> bool:
    """Whether every worker of an attempt refused its task, and would again."""
    return {told.code for told in read_statuses(folder) if told.attempt == attempt} <= REFUSALS


def _start_elastic(command: Command, number: int, folder: str, restarts: int) -> Death | None:
    """Start workers by torch's elastic agent and wait for them. Raises PeerLost."""
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
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
        rdzv_endpoint=f"{LOOPBACK}:0",
        local_addr=LOOPBACK,
        max_restarts=restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(Path(folder, "torch"))),
    )
    try:
        elastic_launch(config, _run_worker)(command, folder, {})
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode != PeerLost.exit_code:
                trace = str(failure.message).strip() if failure.exitcode > 0 else ""
                trace = "" if trace.startswith(NO_TRACE) else trace
                return Death(rank, failure.pid, failure.exitcode, trace)
    except (RendezvousError, dist.DistError) as error:
        # The agent then asks the workers to end, who save what they have.
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise PeerLost(
            f"the launcher lost the store by which its processes find each other ({reason}), so "
            "all ended; resume with --resume"
        ) from error
    return None


def _start_ring(command: Command, number: int, folder: str, writing: Writing) -> Death | None:
    """Start workers as a ring of MLX on the loopback interface and wait for them."""
    spawn = get_context("spawn")
    hosts = Path(folder, "hosts.json")
    started: list[BaseProcess] = []
    with hold_free_ports(number) as ports, filter_stderr(folder):
        hosts.write_text(json.dumps([[f"{LOOPBACK}:{port}"] for port in ports]), encoding="utf-8")
        for rank in range(number):
            environment = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
            worker = spawn.Process(
                target=_run_worker, args=(command, folder, environment), daemon=True
            )
            worker.start()
            started.append(worker)
        return _await_workers(started, writing)


@contextmanager
def hold_free_ports(number: int) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 that nobody listens at, for processes that begin to within the block.

    Those take seconds to start, so the ports are kept from everybody who asks for any. On Linux
    alone: elsewhere who holds one would keep it from those processes too.
    """
    with ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((LOOPBACK, 0))
        ports = [one.getsockname()[1] for one in held]
        if sys.platform != "linux":
            sockets.close()
        yield ports


def _await_workers(started: list[BaseProcess], writing: Writing) -> Death | None:
    """Wait for all workers; the first death that its worker did not report, if any."""
    running, death, since, wrote = dict(enumerate(started)), None, 0.0, 0.0
    while running:
        time.sleep(POLL)
        if death is not None and writing.may_continue(since):
            wrote = time.monotonic()
        for rank, worker in tuple(running.items()):
            code = worker.exitcode
            if code is None:
                if death is not None and time.monotonic() - max(since, wrote) > 2 * LONGEST_GRACE:
                    worker.kill()  # it never came far enough to say that it is there
                continue
            del running[rank]
            if death is None and code not in (0, PeerLost.exit_code):
                death, since = Death(rank, worker.pid or 0, code), time.monotonic()
    return death
