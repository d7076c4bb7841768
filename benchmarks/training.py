"""Training speed of each backend, compared with a plain PyTorch loop in the same run.

    python benchmarks/training.py [--shape tiny|22m|gpt2] [--precision float32] [--compile]

The peer is the same architecture as most people write it: nn.Module, F.cross_entropy,
torch.optim.AdamW(fused=True). Rounds alternate; medians are printed with the ratio to the peer.
Only ratios can be compared between machines.
"""

import argparse
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

# layers, width, heads, feed-forward, vocabulary, context, batch
SHAPES = {
    "tiny": (4, 128, 4, 352, 8000, 256, 32),
    "22m": (8, 384, 6, 1024, 16000, 512, 8),
    "gpt2": (12, 768, 12, 2048, 50257, 512, 4),
}


class PeerBlock(nn.Module):
    """A Llama block as it is usually written."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (
            torch.cat((-t.chunk(2, -1)[1], t.chunk(2, -1)[0]), -1) * sin + t * cos for t in (q, k)
        )
        y = F.scaled_dot_product_attention(q.type_as(v), k.type_as(v), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, C))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Peer(nn.Module):
    """A Llama as it is usually written."""

    def __init__(self, layers, width, heads, hidden, vocabulary, context):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(PeerBlock(width, heads, hidden) for _ in range(layers))
        self.norm = nn.RMSNorm(width, 1e-5)
        self.head = nn.Linear(width, vocabulary, bias=False)
        size = width // heads
        angles = torch.arange(context)[:, None] / 10000 ** (torch.arange(0, size, 2) / size)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, tokens, targets):
        """Mean loss. (B, T), (B, T) -> ()."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).float().flatten(0, 1), targets.flatten())


def make_peer_step(shape, batch, precision, compiled, device):
    """Make a function that takes one optimizer step of the peer."""
    model = Peer(*shape[:6]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
    loss_of = torch.compile(model) if compiled else model
    tokens = torch.from_numpy(batch.tokens[0]).long().to(device)
    targets = torch.from_numpy(batch.targets[0]).long().to(device)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    shape = layers, width, heads, hidden, vocabulary, context, rows = SHAPES[chosen.shape]
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    spec = ModelSpec((block,), "bench", "", vocabulary, context, width, layers)
    ids = np.random.default_rng(0).integers(0, vocabulary, (1, rows, context + 1)).astype(np.int32)
    batch = Batch(ids[..., :-1], ids[..., 1:].copy(), np.arange(rows, dtype=np.uint32)[None])
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    steps = {"peer": make_peer_step(shape, batch, chosen.precision, chosen.compile, device)}
    for name in chosen.backend or ("torch", "mlx"):
        state = TrainState(init_weights(spec, 0), {}, {}, 0)
        options = Options(
            device=device if name == "torch" else None,
            precision=chosen.precision,
            compile=chosen.compile,
        )
        learner = find_backend(name).learner(spec, state, Recipe(), options)
        steps[name] = lambda learner=learner: float(learner.step(batch, 3e-4).loss)
    seconds = {name: [] for name in steps}
    for turn in range(chosen.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    peer = statistics.median(seconds["peer"])
    print(
        f"{chosen.shape}: {count_parameters(spec):,} parameters, {rows} x {context} tokens a step"
    )
    how = ", compiled" if chosen.compile else ""
    print(f"{chosen.precision}{how}, {torch.get_num_threads()} threads")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        rate = f"{rows * context / median:9,.0f} tokens/s   {peer / median:5.2f} x peer"
        print(f"  {name:6} {rate}   {median:.3f} s a step")


if __name__ == "__main__":
    main()
