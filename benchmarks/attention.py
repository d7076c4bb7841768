"""torch's fused attention on this CPU: of one query by type, and of rows beside blocks written out.

    python benchmarks/attention.py [--rounds 9]

One query of 12 heads of 64 to the keys of a cache, as in decoding, in bfloat16 and in float32; and
a causal pass of 8 x 6 heads, 512 tokens, forward and backward, fused and in blocks of 256 queries
whose scores are kept for no longer than the block. Milliseconds, medians; in turn, round by round.
"""

import argparse
import math
import statistics
import time

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attend

TYPES = (torch.bfloat16, torch.float32)
BLOCK = 256


def compute_scores(q: Tensor, k: Tensor, start: int) -> Tensor:
    """Probabilities of queries that begin at `start`. (B, T, D), (B, S, D) -> (B, T, S)"""
    scores = torch.bmm(q, k.mT).mul_(1 / math.sqrt(q.shape[-1]))
    mask = torch.full((q.shape[1], q.shape[1]), -torch.inf, dtype=q.dtype).triu_(1)
    scores[:, :, start:] += mask
    return torch.softmax(scores, -1)


def attend_forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, block by block. (B, T, D) -> (B, T, D)"""
    out = torch.empty_like(q)
    for start in range(0, q.shape[1], BLOCK):
        end = start + BLOCK
        p = compute_scores(q[:, start:end], k[:, :end], start)
        torch.bmm(p, v[:, :end], out=out[:, start:end])
    return out


def attend_backward(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of attend_forward, whose probabilities are computed again."""
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, q.shape[1], BLOCK):
        end = start + BLOCK
        p = compute_scores(q[:, start:end], k[:, :end], start)
        dv[:, :end].baddbmm_(p.mT, g[:, start:end])
        dp = torch.bmm(g[:, start:end], v[:, :end].mT)
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
        ds.mul_(1 / math.sqrt(q.shape[-1]))
        torch.bmm(ds, k[:, :end], out=dq[:, start:end])
        dk[:, :end].baddbmm_(ds.mT, q[:, start:end])
    return dq, dk, dv


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
    for dtype in TYPES:
        q, k, v, g = torch.randn(4, 48, 512, 64).to(dtype)
        again = [x[None].clone().requires_grad_() for x in (q, k, v)]

        def run(again=again, g=g):
            out = attend(*again, is_causal=True)
            torch.autograd.grad(out, again, g[None])

        name = str(dtype)[6:]
        found[f"512 tokens forward, fused, {name}"] = lambda q=q, k=k, v=v: attend(
            q[None], k[None], v[None], is_causal=True
        )
        found[f"512 tokens forward, blocks, {name}"] = lambda q=q, k=k, v=v: attend_forward(q, k, v)
        found[f"512 tokens, both passes, fused, {name}"] = run
        found[f"512 tokens, both passes, blocks, {name}"] = lambda q=q, k=k, v=v, g=g: (
            attend_forward(q, k, v), attend_backward(q, k, v, g)
        )  # fmt: skip
    return found


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


if __name__ == "__main__":
    main()
