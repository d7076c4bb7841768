"""Tokens per second of many requests at once, and of the same requests one after another.

    python benchmarks/batching.py [--shape 22m] [--requests 16] [--rows 16] [--backend torch]

Greedy texts of --tokens tokens after prompts of 64 random tokens. Texts of both ways are compared.
--batch-invariant adds an engine whose texts have the same bits whoever shares the batch.
The first round warms up and does not count; figures are medians. Processor time is told beside the
clock's, to which other work on the machine adds; it grows with the threads that wait for work, so
compare by it with OMP_NUM_THREADS=1.
"""

import argparse
import math
import statistics
import time

import numpy as np
import torch
from decoding import PROMPT, SHAPES, make_spec

from hermes.inference.batch_generation import run_requests
from hermes.inference.decoding import generate_tokens
from hermes.inference.engine import Engine
from hermes.inference.request import Request
from hermes.inference.sampling import GREEDY
from hermes.interface import Options, find_backend
from hermes.numerics.params import count_parameters, init_weights


def time_alone(model, requests):
    """Seconds of the requests one after another, by both clocks, and their texts."""
    start, worked = time.perf_counter(), time.process_time()
    texts = [
        tuple(generate_tokens(model, one.prompt, max_tokens=one.max_tokens, sampling=GREEDY))
        for one in requests
    ]
    return (time.perf_counter() - start, time.process_time() - worked), texts


def time_together(model, requests, rows, **options):
    """Seconds of the requests in one batch, by both clocks, and their texts."""
    engine = Engine(model, rows=rows, capacity=PROMPT + requests[0].max_tokens, **options)
    start, worked = time.perf_counter(), time.process_time()
    texts = [one.tokens for one in run_requests(engine, requests)]
    return (time.perf_counter() - start, time.process_time() - worked), texts


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="22m")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    parser.add_argument("--device")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-invariant", action="store_true")
    chosen = parser.parse_args()
    spec = make_spec(SHAPES[chosen.shape])
    weights = init_weights(spec, 0)
    random = np.random.default_rng(0)
    requests = [
        Request(tuple(random.integers(0, spec.vocab_size, PROMPT).tolist()), chosen.tokens, GREEDY)
        for _ in range(chosen.requests)
    ]
    total = chosen.requests * chosen.tokens
    print(f"{chosen.shape}: {count_parameters(spec):,} parameters, {chosen.precision}")
    print(f"{chosen.requests} requests, {chosen.rows} rows, {torch.get_num_threads()} threads")
    for name in chosen.backend or ("torch", "mlx"):
        options = Options(device=chosen.device, precision=chosen.precision)
        model = find_backend(name).build(spec, weights, options)
        alone, together, invariant = [], [], []
        for turn in range(chosen.rounds + 1):
            few = requests if turn else requests[:2]
            one, texts = time_alone(model, few)
            many, same = time_together(model, few, chosen.rows)
            steady = math.inf, 0.0
            if chosen.batch_invariant:
                steady, _ = time_together(model, few, chosen.rows, batch_invariant=True)
            if turn:
                invariant.append(steady)
                alone.append(one)
                together.append(many)
                equal = sum(a == b for a, b in zip(texts, same, strict=True))
        one, many, steady = (
            total / statistics.median(wall for wall, _ in seconds)
            for seconds in (alone, together, invariant)
        )
        worked = [statistics.median(cpu for _, cpu in seconds) for seconds in (alone, together)]
        print(
            f"  {name:6} one by one {one:9,.1f} tokens/s   together {many:9,.1f} tokens/s   "
            f"{many / one:5.2f} times; {equal} of {len(texts)} texts equal"
        )
        print(
            f"         processor time {worked[0]:9,.2f} s      together {worked[1]:9,.2f} s  "
            f"{'':8}{worked[0] / worked[1]:5.2f} times"
        )
        if chosen.batch_invariant:
            print(
                f"         batch-invariant {steady:9,.1f} tokens/s   {many / steady:5.2f} times "
                f"the seconds of together, {steady / one:5.2f} times the tokens/s of one by one"
            )


if __name__ == "__main__":
    main()
