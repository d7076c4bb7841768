"""Faults in a run of two processes at random moments of each phase, and what the run does then.

    python -m tests.scenarios.kill_ranks --backend torch|mlx [--shard full] [--kills N] [--seed S]

Each rank is killed, stopped, slowed down and disconnected; so are the launcher and, for torch, the
store that it serves. The phases: starting, the first step with its compilation, the micro-batches
of a step, evaluation, saving, the last step. What is killed, stopped or disconnected must end the
launcher with code 76 within the limit, with a sentence; nothing may outlive it; what is slowed down
ends nothing. Every checkpoint that has its name must be whole and the unbroken run's, bit for bit,
no newer one may be gone, and the same command goes on from it; in the end the record of metrics is
the unbroken run's.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hermes.checkpoint import list_steps
from tests.distributed.support import MLX, TORCH, alive, end, lines, workers
from tests.scenarios.kill_runs import Told, facts, judge, material

LIMIT = 60.0
PATIENCE = 10  # --peer-timeout
SLOW = 3.0  # seconds for which who is slow does nothing
STEPS, SAVES, EVALUATIONS = 60, 5, 7
OPTIONS = [
    *("--seq-len", "16", "--batch-size", "2", "--grad-accum", "2", "--lr", "3e-3"),
    *("--schedule", "cosine", "--val-fraction", "0.05", "--eval-every", str(EVALUATIONS)),
    *("--device", "cpu", "--seed", "5", "--peer-timeout", str(PATIENCE)),
    *("--max-steps", str(STEPS), "--save-every", str(SAVES)),
]
HOW = {"torch": TORCH, "mlx": MLX}
PLANTED = Path(__file__).parent / "planted"
# The longest that each phase may take here, in seconds: a fault comes somewhere within.
PHASES = {
    "start": 5.0,
    "first": 0.3,
    "step": 0.2,
    "evaluation": 0.2,
    "saving": 0.2,
    "last": 0.2,
}
MOST_FAULTS = 5  # after which the rest would say the same
ACTIONS = ("kill", "stop", "slow", "disconnect")


@dataclass(frozen=True)
class Fault:
    """One fault: its phase, who meets it and what happens to whom."""

    phase: str
    rank: int
    nth: int
    delay: float
    action: str
    target: str
    seconds: float = SLOW

    def __str__(self) -> str:
        whom = self.target if self.target == "launcher" else f"rank {self.rank}"
        return f"{self.action} {whom} in {self.phase}"


@dataclass
class Outcomes:
    """What came of the faults. late: planted in a run that was done before it."""

    seconds: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    late: int = 0


def choose_fault(choose, backend):
    """The next fault: every phase, action and target comes as often as another."""
    phase, action = choose.choice([*PHASES]), choose.choice(ACTIONS)
    target = choose.choice(["self", "self", "launcher"])
    if backend == "mlx" and action == "disconnect":
        target = "self"  # its launcher serves no store
    nth = choose.randint(2, 30) if phase == "step" else 1
    if phase in ("evaluation", "saving"):
        nth = choose.randint(1, 3)
    delay = choose.uniform(0, PHASES[phase])
    return Fault(phase, choose.randint(0, 1), nth, delay, action, target)


def start_run(folder, run, backend, shard, fault=None, more=()):
    """The one command that begins the run and resumes it, in a process. more: further options."""
    files = {"--data": "text.txt", "--tokenizer": "tokenizer.json", "--model": "model.mal"}
    given = [word for name, file in files.items() for word in (name, str(folder / file))]
    command = [*given, *OPTIONS, *HOW[backend], "--output", str(run), "--auto-resume", *more]
    command += ["--shard", shard] if shard else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if fault is not None:
        plan = vars(fault) | {"folder": str(folder)}
        environment["HERMES_TEST_FAULT"] = json.dumps(plan)
        old = os.environ.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join([str(PLANTED), old])
    return subprocess.Popen(
        [sys.executable, "-m", "hermes", "train", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def newest(run):
    """The step of the newest checkpoint that has its name."""
    found = list_steps(run)
    return found[0][0] if found else 0


def break_all(folder, backend, shard, wanted, seed):
    """Break runs until `wanted` faults have met one that was not yet done."""
    choose, told, outcomes = random.Random(seed), Told(), Outcomes()
    material(folder, seed)
    whole = folder / "whole"
    # Of every step, since a launcher that loses its store has the workers save where they are.
    process = start_run(folder, whole, backend, shard, more=("--save-every", "1"))
    said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(said)
    expected = {step: facts(path) for step, path in list_steps(whole)}
    for fact in expected.values():
        fact["recipe"] = fact["recipe"] | {"save_every": SAVES}
    while told.kills < wanted and len(told.faults) < MOST_FAULTS:
        told.runs += 1
        run, before = folder / f"run-{told.runs}", len(told.faults)
        last, done = 0, False
        while told.kills < wanted and len(told.faults) == before and not done:
            fault = choose_fault(choose, backend)
            done = break_one(folder, run, backend, shard, fault, told, outcomes)
            last = judge(run, last, expected, told) if run.exists() else last
        if len(told.faults) > before:
            continue  # it is left as it is, to be looked at
        process = start_run(folder, run, backend, shard)
        said = process.communicate()[1]
        if process.returncode:
            told.faults.append(f"the last life ended with {process.returncode}: {said}")
        judge(run, STEPS, expected, told)
        if lines(run) != lines(whole):
            told.faults.append("the record of metrics is not that of the unbroken run")
        if len(told.faults) == before:
            shutil.rmtree(run)
    return told, outcomes


def break_one(folder, run, backend, shard, fault, told, outcomes):
    """Start the run with a fault and see it to its end; whether the run was done then."""
    did = folder / "done.json"
    did.unlink(missing_ok=True)
    (folder / "disconnect").unlink(missing_ok=True)
    process, pids = start_run(folder, run, backend, shard, fault), set()
    try:
        while process.poll() is None and not did.exists():
            pids |= set(workers(process.pid))
            time.sleep(0.05)
        begun = time.monotonic()
        if not did.exists():  # the run ended before its moment came
            outcomes.late += 1
            said = process.communicate()[1]
            if process.returncode:
                told.faults.append(f"{fault}: it never came, and code {process.returncode}: {said}")
            return True
        pids |= set(workers(process.pid))
        said = wait_for_end(process, fault, told, pids)
        seconds = time.monotonic() - begun
        if said is None:
            return True
        told.kills += 1
        outcomes.counts[str(fault)] += 1
        return judge_end(process, fault, said, seconds, told, outcomes)
    finally:
        end(process, pids)


def wait_for_end(process, fault, told, pids):
    """Wait for the launcher, and for what it started; what was said, None where nothing ended."""
    if fault.target == "launcher" and fault.action == "stop":
        time.sleep(SLOW)  # who stopped it lets it go on
        process.send_signal(signal.SIGCONT)
    try:
        said = process.communicate(timeout=2 * LIMIT)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        told.faults.append(f"{fault}: nothing ended: {process.communicate()[1][-2000:]}")
        return None
    until = time.monotonic() + LIMIT
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        if fault.target != "launcher":
            break
        time.sleep(0.1)
    if left:
        told.faults.append(f"{fault}: processes {left} outlived the launcher")
    return said


def judge_end(process, fault, said, seconds, told, outcomes):
    """Compare the launcher's end with what this fault should have; whether the run was done."""
    code, wrong = process.returncode, ""
    harmless = fault.action == "slow" or (fault.target == "launcher" and fault.action == "stop")
    if fault.target == "launcher" and fault.action == "kill":
        wrong = "" if code == -signal.SIGKILL else "the launcher was not killed"
    elif harmless:
        wrong = "" if code == 0 else "a delay ended the run"
    elif code != 0:  # 0: the fault met it on its way out
        outcomes.seconds.append(seconds)
        wrong = judge_words(fault, code, said, seconds)
    if wrong:
        told.faults.append(f"{fault}: {wrong}; code {code} after {seconds:.1f} s: {said[-3000:]}")
    words = f"{told.kills}: {fault}: code {code} after {seconds:.1f} s"
    print(words, f"FAILED: {told.faults[-1]}" if wrong else "", file=sys.stderr, flush=True)
    return code == 0


def judge_words(fault, code, said, seconds):
    """What is wrong with an end by a lost process; empty where nothing is."""
    if code != 76:
        return "not 76"
    if seconds > LIMIT:
        return "too late"
    if "Traceback" in said or said.count("Error: ") != 1:
        return "not one sentence"
    # Who was disconnected lives, and neither side can know whose cable it was.
    named = "rank " if fault.action == "disconnect" else f"rank {fault.rank}"
    if fault.target == "self" and named not in said.partition("Error: ")[2]:
        return "the rank is not named"
    return ""


def main():
    """Say what came of it; the exit code is 1 where anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="torch", choices=HOW)
    parser.add_argument("--shard", choices=("full", "optimizer"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to run  [default: a temporary folder]")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        told, outcomes = break_all(
            Path(folder), asked.backend, asked.shard, asked.kills, asked.seed
        )
    what = asked.backend + (f" --shard {asked.shard}" if asked.shard else "")
    for fault in told.faults:
        print(f"{what}: {fault}")
    seconds = outcomes.seconds or [0.0]
    print(
        f"{what}: {told.kills} faults in {told.runs} runs, {outcomes.late} that came too late, "
        f"{told.compared} checkpoints looked at, {len(told.faults)} failures; where a process was "
        f"lost, the launcher ended after {statistics.median(seconds):.1f} s (median), "
        f"{max(seconds):.1f} s (longest)"
    )
    for words, count in sorted(outcomes.counts.items()):
        print(f"  {count:4} {words}")
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
