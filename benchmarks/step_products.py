"""Milliseconds of the products of a decoding step in MLX, in each form that they could have.

    python benchmarks/step_products.py [--shape 22m] [--rows 1,8,15,16,17,32,64]

x W^T, and (W x^T)^T, each with W as it is stored, and with its columns contiguous. The least of 30
measurements of each product, summed over the layers; the head by itself.
"""

import argparse
import time

import mlx.core as mx
from decoding import SHAPES

import hermes_mlx

FORMS = ("x W^T stored", "x W^T columns", "W x^T stored", "W x^T columns")


def time_form(form, x, weight):
    """Least milliseconds of a product."""
    if form.endswith("columns"):
        weight = mx.contiguous(weight.T).T
    mx.eval(x, weight)
    least = float("inf")
    for _ in range(33):
        start = time.perf_counter()
        mx.eval(x @ weight.T if form.startswith("x") else weight @ x.T)
        least = min(least, time.perf_counter() - start)
    return 1000 * least


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="22m")
    parser.add_argument("--rows", default="1,8,15,16,17,32,64")
    chosen = parser.parse_args()
    layers, width, _, hidden, vocabulary, _ = SHAPES[chosen.shape]
    shapes = ((3 * width, width), (width, width), (2 * hidden, width), (width, hidden))
    print(f"{chosen.shape}; a borrowed BLAS: {hermes_mlx.FAST_BLAS}")
    print(f"{'rows':>5}  {'':6}" + "".join(f"{form:>16}" for form in FORMS))
    with mx.stream(mx.cpu):
        for rows in map(int, chosen.rows.split(",")):
            for part, matrices, times in (
                ("blocks", shapes, layers),
                ("head", ((vocabulary, width),), 1),
            ):
                found = []
                for form in FORMS:
                    each = [
                        time_form(form, mx.random.normal((rows, i)), mx.random.normal((o, i)))
                        for o, i in matrices
                    ]
                    found.append(times * sum(each))
                print(f"{rows:5}  {part:6}" + "".join(f"{one:16.2f}" for one in found), flush=True)


if __name__ == "__main__":
    main()
