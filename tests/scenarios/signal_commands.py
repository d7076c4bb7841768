"""Sends signals to commands at random moments, and looks at how each ends.

    python -m tests.scenarios.signal_commands [--signals 60] [--seed 0] [--command NAME ...]

Standard error is a pipe, as under Slurm, Docker or a log collector. From the moment at which the
process can handle signals, each command must end within SOON seconds with 130 and one line, with 75
and a checkpoint from which the run resumes, or with 0 because it was done; no traceback ever.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hermes.checkpoint import find_newest
from tests.scenarios.kill_runs import material

SOON = 5.0
BUSY = 3.0  # on a machine that other things keep busy
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
TRAINING = ("train", "sft")
TRAIN = (
    *("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "model.mal"),
    *("--seq-len", "16", "--batch-size", "2", "--val-fraction", "0.1", "--eval-every", "3"),
    *("--save-every", "4", "--log-every", "1", "--max-steps", "3000"),
)
COMMANDS = {
    "train on torch": (*TRAIN, "--backend", "torch"),
    "train on mlx": (*TRAIN, "--backend", "mlx"),
    "train, 2 processes": (*TRAIN, "--backend", "torch", "--num-processes", "2"),
    "train, 2 processes of mlx": (*TRAIN, "--backend", "mlx", "--num-processes", "2"),
    "train-tokenizer": ("train-tokenizer", "big.txt", "-o", "new.json", "--vocab-size", "2000"),
    "prepare": ("prepare", "big.txt", "-o", "prepared", "--tokenizer", "tokenizer.json"),
    "sft": (
        *("sft", "-c", "trained", "--data", "chat.jsonl", "--overlong", "truncate"),
        *("--max-steps", "3000", "--save-every", "4", "--log-every", "1"),
    ),
    "serve": ("serve", "-c", "trained", "--port", "0"),
    "generate": ("generate", "-c", "trained", "-p", "the", "--num-samples", "500"),
    "chat": ("chat", "-c", "trained", "--max-tokens", "5000"),
    "eval": ("eval", "-c", "trained", "big.txt", "--batch-size", "1"),
    "convert": ("convert", "trained", "converted", "--to", "hf"),
    "info": ("info", "--model", "nano"),
    "conformance": ("conformance", "run", "--backend", "torch", "--level", "L1"),
}


def make_material(folder: Path) -> None:
    """A text, a large one, conversations, a tokenizer, a model, and a trained one."""
    material(folder, 0)
    text = (folder / "text.txt").read_text()
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    (folder / "chat.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * 200)
    (folder / "big.txt").write_text("\n".join(text for _ in range(2000)))
    done = start(folder, (*TRAIN, "--max-steps", "4", "--output", "trained"))
    _, err = done.communicate(timeout=120)
    assert done.returncode == 0, err


def start(folder: Path, arguments: tuple[str, ...]) -> "subprocess.Popen[str]":
    """Start the command as its script does."""
    code = "from hermes_cli.entry import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL if arguments[0] != "chat" else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def await_handlers(process: "subprocess.Popen[str]") -> None:
    """Wait until the process handles SIGUSR1: before that Python itself is starting."""
    bit = 1 << (signal.SIGUSR1 - 1)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) & bit:
            return
        time.sleep(0.001)


def await_steps(process: "subprocess.Popen[str]", metrics: Path) -> None:
    """Wait until a run has logged steps, for at most a minute."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if metrics.exists() and metrics.stat().st_size:
            return
        time.sleep(0.01)


def send(
    folder: Path, name: str, number: signal.Signals, delay: float, at: int, trains: bool
) -> str:
    """Run a command, send it a signal after `delay` seconds; how it ended, in words.

    trains: the delay begins with the first step of a run.
    """
    output = folder / f"run-{at}"
    arguments = COMMANDS[name]
    if arguments[0] in TRAINING:
        arguments = (*arguments, "--output", str(output))
    process = start(folder, arguments)
    if arguments[0] == "chat":
        assert process.stdin is not None
        process.stdin.write("the cat")
        process.stdin.close()
        process.stdin = None
    await_handlers(process)
    if trains and arguments[0] in TRAINING:
        await_steps(process, output / "metrics.jsonl")
    time.sleep(delay)
    process.send_signal(number)
    sent = time.monotonic()
    try:
        _, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        _, err = process.communicate()
        return f"WRONG: no end within 60 s\n{err}"
    took, code = time.monotonic() - sent, process.returncode
    lines = err.splitlines()
    if "Traceback" in err or code not in (0, 75, 130):
        return f"WRONG: {code} after {took:.1f} s\n{err}"
    if code == 130 and lines[-1:] != ["Error: interrupted"]:
        return f"WRONG: 130 and the last line {lines[-1:]}"
    if code != 0 and took > SOON * BUSY:
        return f"WRONG: {code} after {took:.1f} s"
    if code == 75:
        newest = find_newest(output).checkpoint
        if newest is None or f"stopped at step {newest.state.step:,} " not in lines[-1]:
            return f"WRONG: 75 without its checkpoint\n{err}"
    return {0: "done", 75: "saved", 130: "interrupted"}[code]


def main() -> int:
    """Send the signals and print the counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", choices=sorted(COMMANDS))
    given = parser.parse_args()
    choose, counts, faults = random.Random(given.seed), Counter[str](), 0
    names = given.command or list(COMMANDS)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_material(folder)
        for at in range(given.signals):
            name, number = names[at % len(names)], choose.choice(SIGNALS)
            delay = choose.choice((0.0, 0.05, 0.3, 1.0, 2.0, 4.0)) * choose.random()
            words = send(folder, name, number, delay, at, trains=choose.random() < 0.5)
            counts[words.split(":")[0]] += 1
            if words.startswith("WRONG"):
                faults += 1
                print(f"{name}, {number.name} after {delay:.2f} s: {words}", flush=True)
    told = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    print(f"{given.signals} signals to {len(names)} commands: {told}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
