"""The loss that each optimizer and schedule reaches, and the steps that Muon needs for AdamW's.

    python benchmarks/optimizers.py --results FILE [--steps 2000] [--only muon wsd ...]
    python benchmarks/optimizers.py --results FILE --table
    python benchmarks/optimizers.py --results FILE --agreement

A byte-level model of nanoGPT's shape for CPUs (4 layers of width 128 with 4 heads, context 64,
batch 12) on a million bytes that Python carries: pydoc's topics, then the source of its modules by
name; a twentieth is held out. Each optimizer runs with a few learning rates, all else alike:
warm-up over 5 %, a cosine to a tenth, clipping at 1. Muon and NorMuon also run with fewer steps,
each a whole schedule. The schedules are compared with AdamW at the learning rate that is best with
a cosine. Losses are of the held-out text, in nats per byte.

Every finished run is a line of FILE, and a run that is there is not made again, so that the
benchmark may be stopped and started. --agreement trains AdamW on torch and mlx alike, and compares
the losses of the first 100 steps and the last held-out losses.
"""

import argparse
import json
import math
import pydoc_data.topics
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes.training.schedule import compute_lr

CONTEXT, BATCH, SIZE, COMPARED = 64, 12, 1_000_000, 100
# Each optimizer's learning rates, by shares of the steps; what decides most comes first.
RATES = (
    ("adamw", 1.0, (2e-3, 4e-3, 1e-3, 5e-4)),
    ("muon", 0.75, (8e-3, 4e-3)),
    ("normuon", 0.75, (8e-3, 4e-3)),
    ("lion", 1.0, (5e-4, 2e-4, 1e-4)),
    ("adafactor", 1.0, (4e-3, 1e-2, 2e-3)),
    ("muon", 1.0, (4e-3, 8e-3)),
    ("normuon", 1.0, (4e-3, 8e-3)),
    ("muon", 0.5, (4e-3, 8e-3)),
)
SCHEDULES = {
    "linear": {"schedule": "linear"},
    "wsd": {"schedule": "wsd", "decay_ratio": 0.2},
    "wsd 1-sqrt": {"schedule": "wsd", "decay_ratio": 0.2, "decay_shape": "1-sqrt"},
    "polynomial": {"schedule": "polynomial"},
    "points": {"schedule": "points", "lr_points": (("5%", "1"), ("50%", "0.5"), ("100%", "0.1"))},
    "constant": {"schedule": "constant"},
}


@dataclass(frozen=True)
class Trial:
    """One run of the benchmark."""

    optimizer: str
    schedule: str
    steps: int
    lr: float
    backend: str = "torch"


def make_spec() -> ModelSpec:
    """nanoGPT's shape for CPUs, as a Llama."""
    block = BlockSpec(AttentionSpec(4), FfnSpec(hidden_dim=352))
    return ModelSpec(
        blocks=(block,), vocab_size=256, max_seq_len=CONTEXT, hidden_size=128, num_layers=4
    )


def read_text() -> TextDataset:
    """The first million bytes of Python's documentation and source."""
    text = "".join(pydoc_data.topics.topics.values()).encode()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if len(text) >= SIZE:
            break
        text += path.read_bytes()
    stream = TokenStream.from_ids(np.frombuffer(text[:SIZE], np.uint8))
    return TextDataset(stream, seq_len=CONTEXT, vocab_size=256, val_fraction=0.05, seed=1)


def train(data: TextDataset, trial: Trial) -> dict[str, object]:
    """Run a trial. Returns the held-out loss, seconds per step and the first steps' losses."""
    recipe = Recipe(
        lr=trial.lr, batch_size=BATCH, seq_len=CONTEXT, warmup_steps=trial.steps // 20,
        optimizer=OptimizerRecipe(trial.optimizer), max_steps=trial.steps,
        **SCHEDULES.get(trial.schedule, {"schedule": trial.schedule}),
    )  # fmt: skip
    spec = make_spec()
    learner = find_backend(trial.backend).learner(
        spec, TrainState(init_weights(spec, 0), {}, {}, 0), recipe, Options(device="cpu")
    )
    cursor, began, reports = Cursor(), time.perf_counter(), []
    for step in range(trial.steps):
        batch, cursor = data.draw_batch(cursor, samples=BATCH, micro_batch=BATCH, accum=1)
        report = learner.step(batch, compute_lr(recipe, step, trial.steps))
        if step < COMPARED:
            reports.append(float(report.loss))
    last = float(report.loss)
    seconds = (time.perf_counter() - began) / trial.steps
    batches = list(data.iterate_validation(64))
    total = sum(learner.loss(one) * one.own_counts.divisor for one in batches)
    loss = total / sum(one.own_counts.divisor for one in batches)
    return {"loss": loss, "last": last, "seconds": seconds, "first_losses": reports}


def read_results(path: Path) -> dict[Trial, dict[str, object]]:
    """The finished runs of a file; a torn last line is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[Trial(**record["trial"])] = record
    return found


def find_best(done: dict[Trial, dict[str, object]], optimizer: str, steps: int) -> Trial | None:
    """The learning rate of least held-out loss with a cosine; None where nothing ran."""
    same = [
        one
        for one in done
        if (one.optimizer, one.schedule, one.steps, one.backend)
        == (optimizer, "cosine", steps, "torch")
    ]
    return min(same, key=lambda one: done[one]["loss"], default=None)


def list_trials(path: Path, steps: int) -> Iterator[Trial]:
    """Every run of the table; the schedules once AdamW's learning rate is known."""
    for number, (optimizer, share, rates) in enumerate(RATES):
        for lr in rates:
            yield Trial(optimizer, "cosine", math.ceil(steps * share), lr)
        if number == 4 and (best := find_best(read_results(path), "adamw", steps)):
            for schedule in SCHEDULES:
                yield Trial("adamw", schedule, steps, best.lr)


def run_missing(path: Path, data: TextDataset, trials: Iterator[Trial]) -> None:
    """Run what the file lacks, and add a line for each."""
    for trial in trials:
        if trial in read_results(path):
            continue
        result = train(data, trial)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": asdict(trial), **result}) + "\n")
        print(f"{trial}: {result['loss']:.4f}", flush=True)


def print_table(path: Path, steps: int) -> None:
    """The runs as Markdown, and the steps in which Muon passes AdamW's best loss."""
    done = read_results(path)
    rows: dict[tuple[str, str, int], list[Trial]] = {}
    for one in done:
        if one.backend == "torch":
            rows.setdefault((one.optimizer, one.schedule, one.steps), []).append(one)
    print("| optimizer | schedule | steps | learning rate: held-out loss | ms a step |")
    print("|---|---|---|---|---|")
    for (optimizer, schedule, count), trials in rows.items():
        losses = ", ".join(
            f"{one.lr:g}: {done[one]['loss']:.4f}" for one in sorted(trials, key=lambda t: t.lr)
        )
        cost = min(float(done[one]["seconds"]) for one in trials) * 1e3
        print(f"| {optimizer} | {schedule} | {count:,} | {losses} | {cost:.0f} |")
    best = find_best(done, "adamw", steps)
    for optimizer in ("muon", "normuon"):
        counts = sorted({one.steps for one in done if one.optimizer == optimizer})
        for count in counts if best else []:
            own = find_best(done, optimizer, count)
            if done[own]["loss"] <= done[best]["loss"]:
                print(f"\n{optimizer} passes adamw's {done[best]['loss']:.4f} in {count / steps:g}")
                break


def print_agreement(path: Path, data: TextDataset, steps: int) -> None:
    """Compare torch and mlx, of one run of AdamW."""
    lr = getattr(find_best(read_results(path), "adamw", steps), "lr", 1e-3)
    ours = [Trial("adamw", "cosine", steps, lr, backend) for backend in ("torch", "mlx")]
    run_missing(path, data, iter(ours))
    torch, mlx = (read_results(path)[one] for one in ours)
    pairs = zip(torch["first_losses"], mlx["first_losses"], strict=True)
    largest = max(abs(a - b) for a, b in pairs)
    apart = abs(torch["loss"] / mlx["loss"] - 1)
    print(f"largest difference of the first {COMPARED} losses: {largest:.2e}")
    print(f"held-out loss torch {torch['loss']:.4f}, mlx {mlx['loss']:.4f}: {apart:.3%} apart")


def main() -> None:
    """Run what is missing, or print what is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--only", nargs="*", help="optimizers, or schedules but the cosine")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--agreement", action="store_true")
    options = parser.parse_args()
    if options.table:
        return print_table(options.results, options.steps)
    data = read_text()
    print(f"{count_parameters(make_spec()):,} parameters, {len(data.train):,} windows of text")
    if options.agreement:
        return print_agreement(options.results, data, options.steps)
    wanted = options.only
    trials = list_trials(options.results, options.steps)
    chosen = (
        one
        for one in trials
        if not wanted or {one.optimizer if one.schedule == "cosine" else one.schedule} & {*wanted}
    )
    run_missing(options.results, data, chosen)
    print_table(options.results, options.steps)
    return None


if __name__ == "__main__":
    main()
