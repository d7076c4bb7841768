"""Training's products of one input in MLX: each by itself, and as one by weights that are joined.

    python benchmarks/joined_products.py [--device cpu|gpu]

Both passes of q, k and v, or of gate and up. Weights are parameters of their own, so a pass joins
them anew. Processor milliseconds on a CPU, seconds of the clock on a GPU; medians, in turns.
"""

# isort: off
import hermes_mlx  # noqa: F401 - first, or MLX would have another BLAS

# isort: on
import argparse
import time

import mlx.core as mx
import numpy as np

# tokens, inputs, outputs of each
SHAPES = (
    (2048, 128, (128, 128, 128)),
    (2048, 384, (384, 384, 384)),
    (1024, 960, (960, 320, 320)),
    (1024, 960, (2560, 2560)),
)
ROUNDS = 7


def multiply_apart(x, weights):
    """The sum of the squares of each product."""
    return sum(mx.square((x @ w.astype(x.dtype).T).astype(mx.float32)).sum() for w in weights)


def multiply_joined(x, weights):
    """The same by one product."""
    y = x @ mx.concatenate(weights).astype(x.dtype).T
    ends = np.cumsum([len(w) for w in weights])[:-1].tolist()
    return sum(mx.square(part.astype(mx.float32)).sum() for part in mx.split(y, ends, axis=-1))


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    asked = parser.parse_args()
    clock = time.process_time if asked.device == "cpu" else time.perf_counter
    dtype = getattr(mx, asked.precision)
    with mx.stream(mx.Device(mx.gpu if asked.device == "gpu" else mx.cpu)):
        for compiles in (False, True):
            for tokens, inputs, outputs in SHAPES:
                weights = [0.02 * mx.random.normal((size, inputs)) for size in outputs]
                x = mx.random.normal((tokens, inputs)).astype(dtype)
                forms = [mx.value_and_grad(f, (0, 1)) for f in (multiply_apart, multiply_joined)]
                forms = [mx.compile(form) for form in forms] if compiles else forms
                taken = [[], []]
                for _ in range(ROUNDS + 1):
                    for form, found in zip(forms, taken, strict=True):
                        begun = clock()
                        mx.eval(form(x, weights))
                        found.append(1000 * (clock() - begun))
                apart, joined = (float(np.median(found[1:])) for found in taken)
                mode = "compiled" if compiles else "eager"
                print(
                    f"{tokens} x {inputs} to {outputs}, {mode}: apart {apart:.2f} ms, joined "
                    f"{joined:.2f} ms, {apart / joined:.2f} times",
                    flush=True,
                )


if __name__ == "__main__":
    main()
