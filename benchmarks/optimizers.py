"""The loss that each optimizer reaches, and the steps that Muon needs for AdamW's.

    python benchmarks/optimizers.py [--steps 1000] [--only muon ...] [--backend torch]

A byte-level model of nanoGPT's shape for CPUs (4 layers of width 128 with 4 heads, context 64,
batch 12) on the text that Python carries, pydoc's topics: 466,000 bytes, of which a twentieth is
held out. Each optimizer runs with a few learning rates, all else alike: warm-up over 5 %, a cosine
to a tenth, clipping at 1. Muon also runs with 0.75 and 0.5 of the steps, and NorMuon with 0.75,
each a whole schedule. Losses are of the held-out text, in nats per byte.
"""

import argparse
import math
import pydoc_data.topics
import time

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes.training.schedule import compute_lr

CONTEXT, BATCH = 64, 12
RATES = {
    "adamw": (1e-3, 2e-3, 4e-3),
    "muon": (2e-3, 4e-3, 8e-3),
    "normuon": (4e-3, 8e-3),
    "lion": (2e-4, 5e-4),
    "adafactor": (4e-3, 1e-2),
}
SHARES = {"muon": (1.0, 0.75, 0.5), "normuon": (0.75,)}


def make_spec():
    """nanoGPT's shape for CPUs, as a Llama."""
    block = BlockSpec(AttentionSpec(4), FfnSpec(hidden_dim=352))
    return ModelSpec(
        blocks=(block,), vocab_size=256, max_seq_len=CONTEXT, hidden_size=128, num_layers=4
    )


def read_text():
    """Python's own documentation as bytes."""
    text = "".join(pydoc_data.topics.topics.values()).encode()
    stream = TokenStream.from_ids(np.frombuffer(text, np.uint8))
    return TextDataset(stream, seq_len=CONTEXT, vocab_size=256, val_fraction=0.05, seed=1)


def train(backend, data, optimizer, lr, steps):
    """The held-out loss after a run, and seconds per step."""
    recipe = Recipe(
        lr=lr, batch_size=BATCH, seq_len=CONTEXT, schedule="cosine", warmup_steps=steps // 20,
        optimizer=OptimizerRecipe(optimizer), max_steps=steps,
    )  # fmt: skip
    spec = make_spec()
    learner = find_backend(backend).learner(
        spec, TrainState(init_weights(spec, 0), {}, {}, 0), recipe, Options(device="cpu")
    )
    cursor, began = Cursor(), time.perf_counter()
    for step in range(steps):
        batch, cursor = data.draw_batch(cursor, samples=BATCH, micro_batch=BATCH, accum=1)
        report = learner.step(batch, compute_lr(recipe, step, steps))
    float(report.loss)
    seconds = (time.perf_counter() - began) / steps
    batches = list(data.iterate_validation(64))
    total = sum(learner.loss(one) * one.own_counts.divisor for one in batches)
    return total / sum(one.own_counts.divisor for one in batches), seconds


def main():
    """Run them all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--only", nargs="*", default=list(RATES))
    options = parser.parse_args()
    data = read_text()
    print(f"{count_parameters(make_spec()):,} parameters, {len(data.train):,} windows of text")
    for name in options.only:
        for share in SHARES.get(name, (1.0,)):
            steps = math.ceil(options.steps * share)
            best = (math.inf, 0.0, 0.0)
            for lr in RATES[name]:
                loss, seconds = train(options.backend, data, name, lr, steps)
                print(f"  {name} {steps} steps lr {lr:g}: {loss:.4f}", flush=True)
                best = min(best, (loss, lr, seconds))
            loss, lr, seconds = best
            print(f"{name:10} {steps:5} steps  lr {lr:g}  loss {loss:.4f}  {seconds * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
