"""Kills a run at random points, again and again, and looks at what is left each time.

    OMP_NUM_THREADS=1 python -m tests.scenarios.kill_runs [--backend torch|mlx]
        [--command train|sft|dpo] [--grad-accum 2] [--kills 200] [--seed 0]

The run saves every few updates and evaluates between. After each kill -9 every checkpoint that has
its name must be whole, no newer one may be gone, and the same command goes on. Every checkpoint of
every life must be the unbroken run's, bit for bit, and so must the record of metrics.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from hermes.api_tokenizer import train_tokenizer
from hermes.checkpoint import list_steps, open_checkpoint, verify
from hermes.training.events import MEASURED
from hermes_cli.main import run as hermes
from hermes_conformance.mutants.server import count_threads
from tests.finetuning.support import (
    small_checkpoint,
    small_spec,
    some_chats,
    some_pairs,
    write_lines,
)
from tests.waiting import wait_until

SPEC = """model little { max_seq_len: 32 hidden_size: 32 num_layers: 2 vocab_size: 300
  block: { attention: { num_heads: 2 num_kv_heads: 1 dropout: 0.1 } ffn: { hidden_dim: 48 }
           dropout: 0.1 }
  embeddings { tie_weights: true } }"""
SENTENCE = "the cat sat on a mat and then it ran off to see what else there was"
STEPS, SAVES = 60, 3
# Of two epochs and a little: most kills are in the middle of one.
OPTIONS = [
    *("--batch-size", "2", "--lr", "3e-3"),
    *("--schedule", "cosine", "--warmup-steps", "5", "--grad-clip", "0.5", "--seed", "5"),
    *("--val-fraction", "0.05", "--eval-every", "7", "--device", "cpu"),
    *("--max-steps", str(STEPS), "--save-every", str(SAVES)),
]
TENSORS = ("model.safetensors", "optimizer.safetensors")
WHERE = ("run", "step", "tokens", "epoch", "sample", "total_steps", "recipe", "metrics")


# What each command reads, and its options besides.
READS = {
    "train": {"--data": "text.txt", "--tokenizer": "tokenizer.json", "--model": "model.mal"},
    "sft": {"--data": "chats.jsonl", "--checkpoint": "base"},
    "dpo": {"--data": "pairs.jsonl", "--checkpoint": "base"},
}
MORE = {"train": ["--seq-len", "16"], "sft": [], "dpo": []}


def material(folder: Path, seed: int) -> None:
    """A text of some 1,600 tokens, its tokenizer and a model; one to tune, and what to."""
    choose = random.Random(seed)
    words = SENTENCE.split()
    (folder / "text.txt").write_text(" ".join(choose.choice(words) for _ in range(1_300)))
    train_tokenizer(folder / "text.txt", vocab_size=290).save(folder / "tokenizer.json")
    (folder / "model.mal").write_text(SPEC)
    small_checkpoint(folder / "base", spec=small_spec(dropout=0.1))
    write_lines(folder / "chats.jsonl", some_chats(70))
    write_lines(folder / "pairs.jsonl", some_pairs(70))


def command(
    folder: Path, run: Path, backend: str, name: str = "train", grad_accum: int = 2
) -> list[str]:
    """The one command line that begins the run and resumes it."""
    given = [word for key, file in READS[name].items() for word in (key, str(folder / file))]
    return [
        *(name, *given, *OPTIONS, *MORE[name], "--grad-accum", str(grad_accum)),
        *("--backend", backend, "--output", str(run), "--auto-resume"),
    ]


def life(arguments: Sequence[str], said: Path) -> int:
    """A process that trains; forked, since what it imports is here already. said: its last words"""

    def train() -> int:
        words: list[str] = []
        code = hermes(list(arguments), words.append)
        said.write_text("\n".join(words))
        return code

    return fork(train)


def fork(work: Callable[[], int]) -> int:
    """A process that works and ends with what that returns. Not of one with threads.

    A lock that another thread holds at that moment would be held for ever in the new process. One
    that was joined may be listed for a moment more.
    """
    try:
        wait_until(lambda: count_threads() <= 1, seconds=20)
    except AssertionError:
        raise SystemExit(
            "this process has threads, and must not fork; set OMP_NUM_THREADS=1"
        ) from None
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = work()
    finally:
        os._exit(code)


def make_material(folder: Path, seed: int) -> int:
    """`material`, in a process of its own: training a tokenizer starts threads."""
    material(folder, seed)
    return 0


def facts(checkpoint: Path) -> dict[str, object]:
    """What two runs must have in common: the bits of all tensors, and where the run was."""
    files = verify(checkpoint).files
    progress = json.loads((checkpoint / "progress.json").read_text())
    where = {key: progress[key] for key in WHERE if key != "run"}
    return {name: files[name].sha256 for name in TENSORS} | where


def record(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl but for how fast, and in how much memory."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


@dataclass
class Told:
    """What the kills came to."""

    kills: int = 0
    runs: int = 0
    compared: int = 0
    points: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def point(run: Path) -> str:
    """In the middle of what the process was killed, as far as its folder tells."""
    if not (run / "run.yaml").exists():
        return "before the run's first file"
    names = [entry.name for entry in run.iterdir()]
    if any(name.startswith(".trash-") for name in names):
        return "deleting a checkpoint"
    if any(name.startswith(".tmp-step") for name in names):
        return "writing a checkpoint"
    return "elsewhere" if any(n.startswith("step-") for n in names) else "before the first save"


def judge(run: Path, newest_before: int, expected: dict[int, dict[str, object]], told: Told) -> int:
    """Look at every checkpoint of a run that was just killed; the newest step."""
    found = list_steps(run)
    for step, path in found:
        try:
            open_checkpoint(path)
        except Exception as error:
            told.faults.append(f"{path.name} is not whole: {error}")
            continue
        told.compared += 1
        if facts(path) != expected.get(step):
            told.faults.append(f"{path.name} is not that of the unbroken run")
    newest = found[0][0] if found else 0
    if newest < newest_before:
        told.faults.append(f"step {newest_before} was lost; the newest is {newest}")
    return newest


def kill_all(
    folder: Path, backend: str, kills: int, seed: int, name: str = "train", grad_accum: int = 2
) -> Told:
    """Kill runs until `kills` have hit one that was not yet done."""
    choose, told = random.Random(seed), Told()
    if finish(fork(lambda: make_material(folder, seed))):
        raise SystemExit("the material was not made")
    whole, said = folder / "whole", folder / "said.txt"
    began = time.monotonic()
    if finish(life(command(folder, whole, backend, name, grad_accum), said)):
        raise SystemExit(said.read_text())
    longest = (time.monotonic() - began) / 3
    expected = {step: facts(path) for step, path in list_steps(whole)}
    while told.kills < kills and not told.faults:
        told.runs += 1
        run = folder / f"run-{told.runs}"
        arguments = [*command(folder, run, backend, name, grad_accum), "--keep-last", "2"]
        newest = 0
        while told.kills < kills:
            pid = life(arguments, said)
            time.sleep(choose.uniform(0, longest))
            newest = max([newest, *(step for step, _ in list_steps(run))])
            os.kill(pid, signal.SIGKILL)
            if finish(pid) != -signal.SIGKILL:
                break
            told.kills += 1
            told.points[point(run)] += 1
            newest = judge(run, newest, expected, told)
        if code := finish(life(arguments, said)):
            told.faults.append(f"the last life ended with {code}: {said.read_text()}")
        judge(run, STEPS, expected, told)
        if record(run) != record(whole):
            told.faults.append("the record of metrics is not that of the unbroken run")
        shutil.rmtree(run)
    return told


def finish(pid: int) -> int:
    """Wait for a process; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what came of it; the exit code is 1 where anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--command", default="train", choices=READS)
    parser.add_argument("--grad-accum", type=int, default=2)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where to run  [default: a temporary folder]")
    asked = parser.parse_args(arguments)
    import_module({"torch": "torch", "mlx": "mlx.core"}[asked.backend])
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        told = kill_all(
            Path(folder), asked.backend, asked.kills, asked.seed, asked.command, asked.grad_accum
        )
    for fault in told.faults:
        print(f"{asked.backend}: {fault}")
    print(
        f"{asked.backend}, {asked.command}: {told.kills} kills in {told.runs} runs, "
        f"{told.compared} checkpoints looked at, {len(told.faults)} faults"
    )
    for where, count in sorted(told.points.items()):
        print(f"  {count:4} {where}")
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
