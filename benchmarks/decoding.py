"""Decoding speed of each backend, compared with the bound of memory bandwidth.

    python benchmarks/decoding.py [--shape tiny|22m|gpt2] [--precision float32] [--backend torch]

Greedy decoding of one row with a KV cache. Each token reads every weight once, so the bound is the
speed at which a large array is read, measured in the same run, divided by the bytes of the weights.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from hermes.inference.decoding import generate_tokens
from hermes.inference.sampling import Sampling
from hermes.interface import Options, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec

# layers, width, heads, feed-forward, vocabulary, context
SHAPES = {
    "tiny": (4, 128, 4, 352, 8000, 512),
    "22m": (8, 384, 6, 1024, 16000, 512),
    "gpt2": (12, 768, 12, 2048, 50257, 512),
}
BYTES = {"float32": 4, "bfloat16": 2}
PROMPT = 64


def make_spec(shape):
    """Make a Llama of this shape with a tied head, so that a token reads all that is stored."""
    layers, width, heads, hidden, vocabulary, context = shape
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    tied = EmbeddingsSpec(tie_weights=True)
    return ModelSpec((block,), "bench", "", vocabulary, context, width, layers, tied)


def measure_read_speed():
    """Measure how many bytes per second this machine reads from a large array."""
    array = torch.ones(1 << 27)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - start)
    return array.numel() * 4 / min(seconds)


def time_text(model, count):
    """Time `count` tokens after a prompt, in seconds, without the prefill."""
    prompt = np.random.default_rng(0).integers(0, model.spec.vocab_size, PROMPT).tolist()
    tokens = generate_tokens(model, prompt, max_tokens=count + 1, sampling=Sampling(temperature=0))
    next(tokens)
    start = time.perf_counter()
    assert sum(1 for _ in tokens) == count
    return time.perf_counter() - start


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--precision", choices=BYTES, default="float32")
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    spec = make_spec(SHAPES[chosen.shape])
    weights = init_weights(spec, 0)
    options = Options(precision=chosen.precision)
    names = chosen.backend or ("torch", "mlx")
    models = {name: find_backend(name).build(spec, weights, options) for name in names}
    taken = {name: [] for name in models}
    for turn in range(chosen.rounds + 1):
        for name, model in models.items():
            seconds = time_text(model, chosen.tokens if turn else 8)
            if turn:  # the first warms up
                taken[name].append(seconds)
    bound = measure_read_speed() / (count_parameters(spec) * BYTES[chosen.precision])
    print(f"{chosen.shape}: {count_parameters(spec):,} parameters, {chosen.precision}, one row")
    print(f"{torch.get_num_threads()} threads")
    print(f"  memory {bound:9,.1f} tokens/s    1.00 x memory")
    for name, seconds in taken.items():
        rate = chosen.tokens / statistics.median(seconds)
        print(f"  {name:6} {rate:9,.1f} tokens/s   {rate / bound:5.2f} x memory")


if __name__ == "__main__":
    main()
