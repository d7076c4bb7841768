"""Kills one process of a run of two at random moments, and looks at what the others do.

    python -m tests.scenarios.kill_ranks [--backend torch|mlx] [--kills 50] [--seed 0]

The launcher must end with code 76 within the limit, with a sentence that names the process. Every
checkpoint that has its name must be whole and the unbroken run's, bit for bit, no newer one may be
gone, and the same command goes on from it; in the end the record of metrics is the unbroken run's.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from hermes.checkpoint import list_steps
from tests.distributed.support import MLX, TORCH, alive, end, lines, workers
from tests.scenarios.kill_runs import Told, facts, judge, material

LIMIT = 60.0
STEPS, SAVES = 400, 10
OPTIONS = [
    *("--seq-len", "16", "--batch-size", "2", "--lr", "3e-3", "--schedule", "cosine"),
    *("--val-fraction", "0.05", "--eval-every", "70", "--device", "cpu", "--seed", "5"),
    *("--max-steps", str(STEPS), "--save-every", str(SAVES)),
]
HOW = {"torch": TORCH, "mlx": MLX}


@dataclass
class Kills:
    """What came of them. starting: hit before the run went on."""

    seconds: list[float] = field(default_factory=list)
    starting: int = 0


def started(folder, run, backend, *more):
    """The one command that begins the run and resumes it, in a process."""
    files = {"--data": "text.txt", "--tokenizer": "tokenizer.json", "--model": "model.mal"}
    given = [word for name, file in files.items() for word in (name, str(folder / file))]
    command = [*given, *OPTIONS, *HOW[backend], "--output", str(run), "--auto-resume", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "hermes", "train", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def newest(run):
    """The step of the newest checkpoint that has its name."""
    found = list_steps(run)
    return found[0][0] if found else 0


def moment(process, run, choose, kills):
    """Wait for a random moment of this life; the processes that live then, by rank."""
    before, begun = newest(run), time.monotonic()
    while len(workers(process.pid)) < 2 and process.poll() is None:
        time.sleep(0.02)
    if choose.random() < 0.25:
        kills.starting += 1
        time.sleep(choose.uniform(0, 4))
    else:
        while newest(run) == before and process.poll() is None:
            time.sleep(0.02)
            if time.monotonic() - begun > 5 * LIMIT:
                raise SystemExit("a run does not go on")
        time.sleep(choose.uniform(0, 2))
    return workers(process.pid)


def kill_all(folder, backend, wanted, seed):
    """Kill until `wanted` have hit a run that was not yet done."""
    choose, told, kills = random.Random(seed), Told(), Kills()
    material(folder, seed)
    whole = folder / "whole"
    process = started(folder, whole, backend)
    said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(said)
    expected = {step: facts(path) for step, path in list_steps(whole)}
    while told.kills < wanted and not told.faults:
        told.runs += 1
        run = folder / f"run-{told.runs}"
        last, done = 0, False
        while told.kills < wanted and not told.faults and not done:
            process = started(folder, run, backend, "--keep-last", "3")
            pids = moment(process, run, choose, kills)
            last, done = max(last, newest(run)), not kill_one(process, pids, choose, told, kills)
            if not done:
                last = judge(run, last, expected, told)
        process = started(folder, run, backend, "--keep-last", "3")
        said = process.communicate()[1]
        if process.returncode:
            told.faults.append(f"the last life ended with {process.returncode}: {said}")
        judge(run, STEPS, expected, told)
        if lines(run) != lines(whole):
            told.faults.append("the record of metrics is not that of the unbroken run")
        shutil.rmtree(run)
    return told, kills


def kill_one(process, pids, choose, told, kills):
    """Kill one of them and see the launcher to its end; False where the run was done before."""
    try:
        victim = choose.choice(pids) if pids else None
        if victim is None or process.poll() is not None:
            process.communicate()
            return False
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        said = process.communicate(timeout=2 * LIMIT)[1]
        seconds = time.monotonic() - begun
        if process.returncode == 0:
            return False  # it had trained, and was on its way out
        told.kills += 1
        kills.seconds.append(seconds)
        if process.returncode != 76 or seconds > LIMIT or f"process {victim})" not in said:
            told.faults.append(f"code {process.returncode} after {seconds:.1f} s: {said[-2000:]}")
        if left := [pid for pid in pids if alive(pid)]:
            told.faults.append(f"processes {left} outlived the launcher")
        return True
    finally:
        end(process, pids)


def main():
    """Say what came of it; the exit code is 1 where anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="torch", choices=HOW)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to run  [default: a temporary folder]")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        told, kills = kill_all(Path(folder), asked.backend, asked.kills, asked.seed)
    for fault in told.faults:
        print(f"{asked.backend}: {fault}")
    print(
        f"{asked.backend}: {told.kills} kills in {told.runs} runs ({kills.starting} lives were to "
        f"be hit while they start), {told.compared} checkpoints looked at, {len(told.faults)} "
        f"faults; the launcher ended after {statistics.median(kills.seconds):.1f} s (median), "
        f"{max(kills.seconds):.1f} s (longest)"
    )
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
