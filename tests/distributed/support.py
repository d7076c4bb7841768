"""Starting the processes of a test on this machine, and ending them with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys

from hermes.distributed.process_group import RankInfo, SingleProcess
from hermes.training.events import MEASURED
from hermes_cli.launch.launcher import hold_free_ports
from tests.cli.support import drop_stages
from tests.waiting import wait_until

HERMES = [sys.executable, "-m", "hermes"]
COMMON = [
    *("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "nano"),
    *("--seq-len", "16", "--batch-size", "1", "--lr", "1e-3", "--val-fraction", "0.02"),
    *("--device", "cpu", "--precision", "float64"),
]
MLX = ["--backend", "mlx", "--num-processes", "2"]
TORCH = ["--backend", "torch", "--num-gpus", "2"]
WAIT = 400
SPEED = (*MEASURED, "slowest_rank", "slowest_over_mean")


class Said(SingleProcess):
    """Processes whose other ranks say what the test wrote down."""

    def __init__(self, *texts, totals=()):
        self.rank_info, self._texts = RankInfo(0, 1 + len(texts)), texts
        self._totals = list(totals)

    def all_gather_text(self, text):
        return [text, *self._texts]

    def all_reduce_sum(self, numbers):
        return [a + b for a, b in zip(numbers, self._totals, strict=True)]

    def all_reduce_max(self, number):
        return max(number, *map(float, self._texts))


_HELD = contextlib.ExitStack()  # until the tests end


def free_ports(count):
    """Ports of 127.0.0.1 that nobody listens at now, nor is given before the tests end."""
    return _HELD.enter_context(hold_free_ports(count))


def hermes(folder, *arguments, code=0):
    """Run the command there; what it said."""
    done = subprocess.run(
        [*HERMES, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WAIT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr


def lines(run):
    """A run's metrics, all but how fast."""
    return [{k: v for k, v in line.items() if k not in SPEED} for line in metrics(run)]


def run_ranks(script, backend, size, folder, *more):
    """Run SCRIPT once a rank until all end well; what went wrong fails the test."""
    ports = free_ports(size)
    (folder / "hosts.json").write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = []
    try:
        for rank in range(size):
            python = [sys.executable, "-X", "faulthandler"]
            command = [*python, str(script), backend, str(rank), str(size), str(ports[0])]
            started.append(
                subprocess.Popen(
                    [*command, str(folder), *more],
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for rank, process in enumerate(started):
            _, errors = process.communicate(timeout=3 * WAIT)
            assert process.returncode == 0, f"rank {rank}: {errors[-3000:]}"
    finally:
        for process in started:
            process.kill()
            process.wait()


def ranks(folder, backend, *commands, awaited=None):
    """Run a command line in each rank as a launcher would, until all end: exit code and words.

    awaited: the ranks whose end is waited for, None for all.
    """
    ports = free_ports(len(commands))
    hosts = folder / f"hosts-{ports[0]}.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    started = []
    try:
        for rank, arguments in enumerate(commands):
            own = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)}
            if backend == "torch":
                size = str(len(commands))
                own = {"RANK": str(rank), "WORLD_SIZE": size, "LOCAL_RANK": str(rank),
                       "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(ports[0])}  # fmt: skip
            started.append(
                subprocess.Popen(
                    [*HERMES, *map(str, arguments)],
                    cwd=folder,
                    env=os.environ | {"OMP_NUM_THREADS": "1", **own},
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        waited = started if awaited is None else [started[rank] for rank in awaited]
        said = [process.communicate(timeout=WAIT)[1] for process in waited]
        return [(o.returncode, drop_stages(words)) for o, words in zip(waited, said, strict=True)]
    finally:
        for process in started:
            process.kill()
            process.wait()


def train(folder, *arguments, code=0):
    """Train there on what a test's corpus has; what it said."""
    return hermes(folder, *COMMON, *arguments, code=code)


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def begun(corpus, run, *how):
    """A long run by two processes that has saved once, and its workers by rank."""
    process = subprocess.Popen(
        [
            *HERMES,
            *COMMON,
            "--output",
            str(run),
            "--save-every",
            "5",
            "--max-steps",
            "100000",
            "--force",  # the disk has no room for all of its checkpoints, and need not
            *how,
        ],
        cwd=corpus,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_for_checkpoint(process, run)
    return process, workers(process.pid)


def wait_for_checkpoint(process, run):
    wait_until(lambda: list(run.glob("step-*")), WAIT, process)


def last_saved(run):
    return max(int(folder.name[5:]) for folder in run.glob("step-*"))


def workers(parent):
    """The started processes by rank, which is in what they were started with."""
    found = []
    for line in subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True
    ).stdout.splitlines():
        pid, _, arguments = line.strip().partition(" ")
        if "spawn_main" in arguments:
            found.append(int(pid))
    return sorted(found)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except OSError:
        return False


def end(process, pids):
    """Nothing outlives its test."""
    for pid in pids:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait()
