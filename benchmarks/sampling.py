"""What choosing one token costs on the host, by the settings of Sampling.

    python benchmarks/sampling.py [--vocabulary 151936] [--tokens 200]

Logits are normal with a standard deviation of 3, plus a peak that moves: near what a model gives.
The prompt has 1,000 tokens. Times are medians, in milliseconds a token.
"""

import argparse
import statistics
import time

import numpy as np

from hermes.inference.sampler import Sampler
from hermes.inference.sampling import Sampling

EVERYTHING = {
    "top_k": 50,
    "top_p": 0.95,
    "min_p": 0.02,
    "typical_p": 0.95,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "no_repeat_ngram": 4,
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "logit_bias": {7: 1.0, 9: -1.0},
    "banned": ((11,), (12, 13)),
}
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "temperature": {},
    **{f"{name} alone": {name: value} for name, value in EVERYTHING.items()},
    "every filter but top_k": {k: v for k, v in EVERYTHING.items() if k != "top_k"},
    "every filter": EVERYTHING,
}


def measure(settings, vocabulary, tokens):
    """The median time of a choice in seconds."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=(16, vocabulary)) * 3).astype(np.float32)
    rows[np.arange(16), random.integers(0, vocabulary, 16)] += 15
    prompt = random.integers(0, vocabulary, 1000).tolist()
    sampler = Sampler(Sampling(**settings), prompt)
    taken = []
    for index in range(tokens):
        start = time.perf_counter()
        sampler.choose(rows[index % 16])
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--tokens", type=int, default=200)
    chosen = parser.parse_args()
    print(f"vocabulary {chosen.vocabulary:,}")
    for name, settings in SETTINGS.items():
        print(f"  {name:28} {measure(settings, chosen.vocabulary, chosen.tokens) * 1e3:7.3f} ms")


if __name__ == "__main__":
    main()
