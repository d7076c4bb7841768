"""Faults of the forward pass: attention, its mask, its heads and its scores."""

from dataclasses import replace

import numpy as np

from hermes_conformance.faults.blocks import no_bias
from hermes_conformance.faults.fault import Fault, Inside


def _attend(change):
    """change(q, k, v, spec, slopes) gives other arguments to attention."""

    def plant(inside: Inside) -> None:
        inside.table(
            "attention",
            lambda attention: (
                lambda q, k, v, spec, slopes, ctx, site: attention(
                    *change(q, k, v, spec, slopes), ctx, site
                )
            ),
        )

    return plant


def _tiled(inside: Inside) -> None:
    def make(attention):
        def wrong(q, k, v, spec, slopes, ctx, site):
            B, H, T, D = q.shape
            K = k.shape[1]
            mixed = q.reshape(B, H // K, K, T, D).swapaxes(1, 2).reshape(B, H, T, D)
            y = attention(mixed, k, v, spec, slopes, ctx, site)
            return y.reshape(B, K, H // K, T, D).swapaxes(1, 2).reshape(B, H, T, D)

        return wrong

    inside.table("attention", make)


def _seen(change):
    """change(visible, self, T, S, spec) in the place of the mask."""

    def plant(inside: Inside) -> None:
        inside.method(
            "context",
            "Context",
            "_make_mask",
            lambda original: lambda self, T, S, spec: change(original, self, T, S, spec),
        )

    return plant


def _sees_next(original, self, T, S, spec):
    seen = self.relative_positions(T, S) >= -1
    return original(self, T, S, spec) if not spec.causal else seen


def _not_causal(original, self, T, S, spec):
    return original(self, T, S, replace(spec, causal=False))


def _wider(original, self, T, S, spec):
    wide = spec.window_size and spec.window_size + 1
    return original(self, T, S, replace(spec, window_size=wide))


def _shared_qk_norm(inside: Inside) -> None:
    def make(original):
        def wrong(self, x, ctx):
            if self.spec.qk_norm != "head":
                return original(self, x, ctx)
            kept, self.k_norm = self.k_norm, self.q_norm
            try:
                return original(self, x, ctx)
            finally:
                self.k_norm = kept

        return wrong

    inside.forward("Attention", make)


def _finite_mask(inside: Inside) -> None:
    """-inf is spelt math.inf in both backends' attention."""
    ops = inside.module("ops")

    class Small:
        inf, pi, e = 1e4, np.pi, np.e
        sqrt = staticmethod(np.sqrt)

    inside.replace(ops, "math", Small)


def _field(name, case, plant, law="L1/logits"):
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"

FAULTS = (
    _field("a query sees the next key", DEFAULT, _seen(_sees_next)),
    _field("nothing is causal", DEFAULT, _seen(_not_causal)),
    _field("the window is one wider", "attention.mask=window/hot", _seen(_wider)),
    _field(
        "the window is ignored",
        "attention.mask=window/hot",
        _seen(
            lambda original, self, T, S, spec: original(self, T, S, replace(spec, window_size=None))
        ),
    ),
    _field("key heads are tiled, not repeated", "attention.heads=4/2/hot", _tiled),
    _field(
        "key heads are tiled, in whole numbers",
        "integer.grouped heads/float32",
        _tiled,
        "L0/integers",
    ),
    _field(
        "scores are scaled by the model's width",
        DEFAULT,
        _attend(lambda q, k, v, spec, s: (q, k, v, replace(spec, scale=24**-0.5), s)),
    ),
    _field(
        "scale is ignored",
        "attention.scale=0.3/hot",
        _attend(lambda q, k, v, spec, s: (q, k, v, replace(spec, scale=None), s)),
    ),
    _field(
        "attention's softcap is ignored",
        "attention.softcap=2/hot",
        _attend(lambda q, k, v, spec, s: (q, k, v, replace(spec, softcap=None), s)),
    ),
    _field("the values' bias is ignored", "attention.bias=qkv/hot", no_bias("v_proj")),
    _field("queries and keys share a norm", "attention.qk_norm=head/hot", _shared_qk_norm),
    _field(
        "masked scores are -1e4, not -inf",
        "edge.saturated attention/hot",
        _finite_mask,
    ),
)
