"""The loss that AdamW reaches with its moments in each type.

    python benchmarks/moments.py [--steps 60] [--lr 4e-3] [--beta2 0.95] [--backend mlx] [--only ..]
    python benchmarks/moments.py --errors

A byte-level model (4 layers of width 128 with 4 heads, context 64, batch 12) on pydoc's topics:
466,000 bytes, of which a twentieth is held out. Warm-up over 5 %, a cosine to a tenth, clipping at
1. Losses are of the held-out text, in nats per byte.

--errors: how far second moments in bfloat16 are off, of 20,000 normal gradients that are drawn anew
at each step, after 8 / (1 - beta2) of them.
"""

import argparse
import pydoc_data.topics
import time

import numpy as np

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.moment_format import compute_rounding_keys
from hermes.numerics.params import count_parameters, init_weights
from hermes.numerics.update_rules import count_state_bytes
from hermes.recipe import MOMENT_TYPES, OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes.training.schedule import compute_lr
from hermes_numpy.moment_format import round_stochastically
from hermes_numpy.update_rules import round_to_bfloat16

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


def measure_errors(beta2: float) -> str:
    """How far second moments are off, rounded to nearest and at random: rms and mean."""
    rng = np.random.default_rng(0)
    size = 2.0 ** rng.uniform(0, 1, 20_000)  # with mantissas of all kinds
    exact, nearest, random = size, size, size
    for step in range(round(8 / (1 - beta2))):
        squares = size * rng.chisquare(1, len(size))
        (key,) = compute_rounding_keys(0, step + 1, [("exp_avg_sq", "x")])

        def move(v: np.ndarray, squares: np.ndarray = squares) -> np.ndarray:
            return beta2 * v + (1 - beta2) * squares

        exact, nearest = move(exact), round_to_bfloat16(move(nearest))
        random = round_stochastically(move(random), int(key))
    off = [v / exact - 1 for v in (nearest, random)]
    told = (f"rms {np.sqrt(np.mean(x * x)):.2%}, mean {np.mean(x):.2%}" for x in off)
    return f"beta2 {beta2}: to nearest {next(told)}; at random {next(told)}"


def main() -> None:
    """Train with each type of moments, and print a line of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--beta2", type=float, default=0.95)
    parser.add_argument("--backend", default="mlx")
    parser.add_argument("--only", nargs="*", choices=MOMENT_TYPES, default=list(MOMENT_TYPES))
    parser.add_argument("--errors", action="store_true")
    given = parser.parse_args()
    if given.errors:
        for beta2 in (0.95, 0.99, 0.999):
            print(measure_errors(beta2))
        return
    text = "".join(pydoc_data.topics.topics.values()).encode()
    stream = TokenStream.from_ids(np.frombuffer(text, np.uint8))
    data = TextDataset(stream, seq_len=CONTEXT, vocab_size=256, val_fraction=0.05, seed=1)
    print(f"{count_parameters(SPEC):,} parameters, {len(data.train):,} windows of text")
    for moments in given.only:
        recipe = Recipe(
            lr=given.lr, batch_size=BATCH, seq_len=CONTEXT, schedule="cosine",
            warmup_steps=given.steps // 20, max_steps=given.steps,
            optimizer=OptimizerRecipe(moments=moments, beta2=given.beta2),
        )  # fmt: skip
        loss, seconds = train(given.backend, recipe, data)
        size = count_state_bytes(SPEC, recipe, 4)
        print(f"{moments:19}  loss {loss:.4f}  {size:,} bytes  {seconds * 1e3:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
