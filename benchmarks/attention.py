"""torch's fused attention on this CPU: of one query by type, and of rows beside blocks of queries.

    python benchmarks/attention.py [--rounds 9]

One query of 12 heads of 64 to the keys of a cache, as in decoding, in bfloat16 and in float32; and
causal passes in bfloat16, forward and backward, fused and in the blocks of
hermes_torch/block_attention.py, with the error of each result, of its root mean square in float64.
Milliseconds, medians; in turn, round by round.
"""

import argparse
import math
import statistics
import time

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from hermes_torch.block_attention import attend_in_blocks

TYPES = (torch.bfloat16, torch.float32)
# rows, heads, tokens, head size
ROWS = ((32, 4, 256, 32), (8, 6, 512, 64), (4, 12, 1024, 64), (2, 8, 2048, 128))


def differentiate(run, q, k, v, dy):
    """What attention gives, and its gradients."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    y = run(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def attend_fused(q, k, v):
    """torch's own."""
    return attend(q, k, v, is_causal=True)


def attend_blocks(q, k, v):
    """Ours."""
    return attend_in_blocks(q, k, v, 1 / math.sqrt(q.shape[-1]))[0]


def make_heads(rows, heads, tokens, size):
    """Queries, keys, values and a gradient, laid out as a layer's products give them."""
    return [x.swapaxes(1, 2) for x in torch.randn(4, rows, tokens, heads, size).bfloat16()]


def list_queries():
    """What is measured of one query, by what it is called."""
    found = {}
    for rows, keys in ((1, 128), (1, 1024), (16, 128), (16, 1024)):
        for dtype in TYPES:
            q = torch.randn(rows, 12, 1, 64).to(dtype)
            k, v = torch.randn(2, rows, 12, keys + 64, 64).to(dtype)[..., :keys, :]
            name = f"one query, {rows} rows, {keys} keys, {str(dtype)[6:]}"
            found[name] = lambda q=q, k=k, v=v: attend(q, k, v)
    return found


def list_passes():
    """What is measured of whole rows."""
    found = {}
    for sizes in ROWS:
        q, k, v, dy = make_heads(*sizes)
        for name, run in (("fused", attend_fused), ("blocks", attend_blocks)):
            title = f"{sizes[0]} x {sizes[1]} heads of {sizes[3]}, {sizes[2]} tokens, {name}"
            found[f"{title}, forward"] = lambda run=run, q=q, k=k, v=v: run(q, k, v)
            found[f"{title}, both"] = lambda run=run, x=(q, k, v, dy): differentiate(run, *x)
    return found


def print_errors():
    """Print how far both are from float64, one number a result."""
    q, k, v, dy = make_heads(8, 6, 512, 64)
    exact = differentiate(attend_fused, *(x.double() for x in (q, k, v, dy)))
    for name, run in (("fused", attend_fused), ("blocks", attend_blocks)):
        found = differentiate(run, q, k, v, dy)
        errors = [
            ((a.double() - b).square().mean() / b.square().mean()).sqrt().item()
            for a, b in zip(found, exact, strict=True)
        ]
        told = ", ".join(
            f"{what} {e:.1e}" for what, e in zip(("y", "dq", "dk", "dv"), errors, strict=True)
        )
        print(f"errors, {name:8}{told}")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    runs = {**list_queries(), **list_passes()}
    taken = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # one to warm up
                taken[name].append(time.perf_counter() - start)
    for name, seconds in taken.items():
        print(f"{name:50}{statistics.median(seconds) * 1e3:9.2f} ms")
    print_errors()


if __name__ == "__main__":
    main()
