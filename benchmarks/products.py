"""GFLOP/s of a training step's products on a CPU, by torch's BLAS and by oneDNN, in float32.

    python benchmarks/products.py [--shape 22m] [--rounds 9]

x W^T; the gradient of x, d W; and that of W, d^T x, by oneDNN of an x^T that is copied. Medians, in
turn, round by round; for every matrix of a block and for a chunk of the loss with the head. Says
whether hermes takes oneDNN on this processor.
"""

import argparse
import statistics
import time

import torch
from training import SHAPES

from hermes_torch.onednn_products import FASTER, multiply_by_onednn

CHUNK = 320  # tokens of the loss


def list_matrices(shape):
    """The rows, the numbers in and the numbers out of each product, by name."""
    _, width, _, hidden, vocabulary, context, rows = SHAPES[shape]
    n = rows * context
    return {
        "q, k and v": (n, width, 3 * width),
        "o": (n, width, width),
        "gate and up": (n, width, 2 * hidden),
        "down": (n, hidden, width),
        "head": (CHUNK, width, vocabulary),
    }


def list_forms(n, inputs, outputs):
    """What is measured of a matrix, by name."""
    x, weight, d = (torch.randn(a, b) for a, b in ((n, inputs), (outputs, inputs), (n, outputs)))
    return {
        "x W^T": lambda: x @ weight.T,
        "x W^T, oneDNN": lambda: multiply_by_onednn(x, weight),
        "d W": lambda: d @ weight,
        "d W, oneDNN": lambda: multiply_by_onednn(d, weight.T),
        "d^T x": lambda: d.T @ x,
        "d^T x, oneDNN": lambda: multiply_by_onednn(x.T.contiguous(), d.T).T,
    }


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="22m")
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    print(f"{torch.cpu.get_capabilities().get('cpu_name')}; hermes takes oneDNN: {FASTER}")
    for name, sizes in list_matrices(chosen.shape).items():
        forms = list_forms(*sizes)
        seconds = {form: [] for form in forms}
        for turn in range(chosen.rounds + 1):
            for form, multiply in forms.items():
                start = time.perf_counter()
                multiply()
                if turn:  # one to warm up
                    seconds[form].append(time.perf_counter() - start)
        n, inputs, outputs = sizes
        for form, taken in seconds.items():
            rate = 2 * n * inputs * outputs / statistics.median(taken) / 1e9
            print(f"{name:12}{form:16}{rate:6.0f} GFLOP/s", flush=True)


if __name__ == "__main__":
    main()
