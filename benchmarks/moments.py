"""The loss that AdamW reaches with its moments in each type.

    python benchmarks/moments.py [--steps 60] [--lr 4e-3] [--backend mlx] [--only float8 ...]

A byte-level model (4 layers of width 128 with 4 heads, context 64, batch 12) on pydoc's topics:
466,000 bytes, of which a twentieth is held out. Warm-up over 5 %, a cosine to a tenth, clipping at
1. Losses are of the held-out text, in nats per byte.
"""

import argparse
import pydoc_data.topics
import time

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.numerics.update_rules import count_state_bytes
from hermes.recipe import MOMENT_TYPES, OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes.training.schedule import compute_lr

CONTEXT, BATCH = 64, 12
SPEC = ModelSpec(
    blocks=(BlockSpec(AttentionSpec(4), FfnSpec(hidden_dim=352)),),
    vocab_size=256,
    max_seq_len=CONTEXT,
    hidden_size=128,
    num_layers=4,
)


def train(backend: str, recipe: Recipe, data: TextDataset) -> tuple[float, float]:
    """The held-out loss after a run, and seconds per step."""
    state, options = TrainState(init_weights(SPEC, 0), {}, {}, 0), Options(device="cpu")
    learner = find_backend(backend).learner(SPEC, state, recipe, options)
    cursor, began = Cursor(), time.perf_counter()
    for step in range(recipe.max_steps):
        batch, cursor = data.draw_batch(cursor, samples=BATCH, micro_batch=BATCH, accum=1)
        report = learner.step(batch, compute_lr(recipe, step, recipe.max_steps))
    float(report.loss)
    seconds = (time.perf_counter() - began) / recipe.max_steps
    batches = list(data.iterate_validation(64))
    total = sum(learner.loss(one) * one.own_counts.divisor for one in batches)
    return total / sum(one.own_counts.divisor for one in batches), seconds


def main() -> None:
    """Train with each type of moments, and print a line of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--backend", default="mlx")
    parser.add_argument("--only", nargs="*", choices=MOMENT_TYPES, default=list(MOMENT_TYPES))
    given = parser.parse_args()
    text = "".join(pydoc_data.topics.topics.values()).encode()
    stream = TokenStream.from_ids(np.frombuffer(text, np.uint8))
    data = TextDataset(stream, seq_len=CONTEXT, vocab_size=256, val_fraction=0.05, seed=1)
    print(f"{count_parameters(SPEC):,} parameters, {len(data.train):,} windows of text")
    for moments in given.only:
        recipe = Recipe(
            lr=given.lr, batch_size=BATCH, seq_len=CONTEXT, schedule="cosine",
            warmup_steps=given.steps // 20, max_steps=given.steps,
            optimizer=OptimizerRecipe(moments=moments),
        )  # fmt: skip
        loss, seconds = train(given.backend, recipe, data)
        size = count_state_bytes(SPEC, recipe, 4)
        print(f"{moments:8}  loss {loss:.4f}  {size:,} bytes  {seconds * 1e3:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
