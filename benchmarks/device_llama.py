"""A Llama with grouped queries, as most people write it in torch; the peer of device.py."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Attention and a gated feed-forward part."""

    def __init__(self, spec):
        super().__init__()
        attention, hidden = spec.layers[0].attention, spec.layers[0].ffn.hidden_size
        self.heads, self.kv_heads, size = (
            attention.num_heads,
            attention.kv_heads,
            attention.head_size,
        )
        width = spec.hidden_size
        self.sizes = [n * size for n in (self.heads, attention.kv_heads, attention.kv_heads)]
        self.norm1, self.norm2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.qkv = nn.Linear(width, sum(self.sizes), bias=False)
        self.out = nn.Linear(self.sizes[0], width, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, -1, self.sizes[0] // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(self.sizes, -1)
        )
        q, k = (
            (torch.cat((-t.chunk(2, -1)[1], t.chunk(2, -1)[0]), -1) * sin + t * cos).type_as(v)
            for t in (q, k)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    """The stack with a tied head, and its mean loss."""

    def __init__(self, spec, length):
        super().__init__()
        self.embed = nn.Embedding(spec.vocab_size, spec.hidden_size)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.num_layers))
        self.norm = nn.RMSNorm(spec.hidden_size, 1e-5)
        size = spec.layers[0].attention.head_size
        angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, size, 2) / size)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, tokens, targets):
        """Mean loss. (B, T), (B, T) -> ()."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
