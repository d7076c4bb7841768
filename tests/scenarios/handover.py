"""A run that changes its backend half way, beside the unbroken ones of either.

    python -m tests.scenarios.handover

The very small shape and the recipe of the conformance suite's training laws: 100 updates on one
backend and 100 on the other, on the CPU, with moments, schedule, clipping, cursor, tokenizer, tied
weights and, where said, dropout. Printed are the largest differences of any update's loss and of
any weight after the last, from whichever unbroken run is further away.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from hermes.api import train
from hermes.tokenizer import train_tokenizer
from tests.training.support import SENTENCE, losses, tensors

SHAPE = """model xs {{ max_seq_len: 64 hidden_size: 64 num_layers: 2 vocab_size: 300
  block: {{ attention: {{ num_heads: 4 num_kv_heads: 2 dropout: {0} }} ffn: {{ hidden_dim: 176 }}
           dropout: {0} }}
  embeddings {{ tie_weights: true }} }}"""
HALF, STEPS = 100, 200
RECIPE = {
    "max_steps": STEPS, "seq_len": 64, "batch_size": 2, "lr": 1e-3, "schedule": "cosine",
    "warmup_steps": 20, "grad_clip": 1.0, "seed": 7, "save_every": 0,
}  # fmt: skip
BACKENDS = ("torch", "mlx")


@dataclass(frozen=True)
class Apart:
    """The largest differences of a loss, in nats, and of a weight."""

    loss: float
    weight: float


class Handover:
    """Runs of one precision and dropout in a folder; each unbroken one is made once."""

    def __init__(self, folder: Path, precision: str, dropout: float):
        self._folder, self._precision = folder, precision
        self._spec = SHAPE.format(dropout)
        choose, words = random.Random(3), SENTENCE.split()
        text = " ".join(choose.choice(words) for _ in range(9_000))
        self._text = folder / "text.txt"
        self._text.write_text(text, encoding="utf-8")
        self._tokenizer = train_tokenizer([text], vocab_size=270)

    def _go(self, name: str, backend: str, *, until: int = STEPS) -> None:
        seen = [0]
        train(
            self._spec,
            self._text,
            tokenizer=self._tokenizer,
            output=self._folder / name,
            backend=backend,
            device="cpu",
            precision=self._precision,
            resume=True,
            report=lambda event: seen.append(event.step),
            stop=lambda: until < STEPS and seen[-1] >= until - 1,
            **RECIPE,
        )

    def apart(self, first: str, second: str) -> Apart:
        """How far the run that goes from one to the other is from either's own."""
        name = f"{first}-{second}"
        self._go(name, first, until=HALF)
        self._go(name, second)
        for backend in BACKENDS:
            self._go(backend, backend)  # at once, where it is finished
        found = [self._between(name, backend) for backend in BACKENDS]
        return Apart(max(one.loss for one in found), max(one.weight for one in found))

    def _between(self, one: str, other: str) -> Apart:
        here, there = losses(self._folder / one), losses(self._folder / other)
        assert list(here) == list(there) == list(range(1, STEPS + 1))
        last = f"step-{STEPS:08d}"
        weights = [tensors(self._folder / name / last)[0] for name in (one, other)]
        return Apart(
            max(abs(here[step] - there[step]) for step in here),
            max(float(np.abs(weights[0][n] - weights[1][n]).max()) for n in weights[0]),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    for precision, dropout in product(("float32", "float64"), (0.0, 0.1)):
        with tempfile.TemporaryDirectory() as folder:
            runs = Handover(Path(folder), precision, dropout)
            for first, second in (BACKENDS, BACKENDS[::-1]):
                apart = runs.apart(first, second)
                print(
                    f"{precision}, dropout {dropout}, {first} -> {second}: "
                    f"loss {apart.loss:.1e}, weights {apart.weight:.1e}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
