"""Print the bytes and objects of an engine's process after each hundred requests, as JSON.

    python -m tests.inference.growth_worker BACKEND HUNDREDS [LEAK]

LEAK: bytes that each request leaves behind, to see that it shows.
"""

import gc
import json
import sys

from hermes.inference.batch_generation import run_requests
from hermes.inference.engine import Engine
from hermes.inference.request import Request
from hermes.inference.sampling import Sampling
from tests.inference.support import V, make_model
from tests.memory_growth import read_private_memory


def make_requests(number):
    """A hundred requests of many kinds; a third share a beginning."""
    kinds = ({"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9, "no_repeat_ngram": 3},
             {"repetition_penalty": 1.2, "dry_multiplier": 0.5})  # fmt: skip
    requests = []
    for index in range(100):
        seed = number * 100 + index
        own = tuple((seed * 7 + place * place) % V for place in range(3 + seed % 9))
        prompt = (*range(12), *own) if index % 3 == 0 else own
        sampling = Sampling(**kinds[index % 4])
        requests.append(
            Request(prompt, 4 + seed % 13, sampling, seed=seed, logprobs=2 * (seed % 2) or None)
        )
    return requests


def main(backend, hundreds, leak=0):
    """Run all in one engine."""
    engine, sizes, left = Engine(make_model(backend), rows=8), [], []
    for number in range(hundreds):
        done = run_requests(engine, make_requests(number))
        assert all(one.finish_reason == "length" for one in done)
        left += [[b"x" * leak] for _ in done if leak]
        del done
        gc.collect()
        sizes.append((read_private_memory(), len(gc.get_objects())))
    print(json.dumps(sizes))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
