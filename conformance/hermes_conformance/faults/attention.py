"""Faults of the forward pass: attention, its mask, its heads and its scores."""

from dataclasses import replace

import numpy as np

from hermes.spec import RMSNorm
from hermes_conformance.faults.embeddings_and_head import drop_bias
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def _change_arguments(change: Function) -> Plant:
    """Call attention with the arguments that change(q, k, v, spec, slopes) gives."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table(
            "attention",
            lambda attention: (
                lambda q, k, v, spec, slopes, *rest: attention(
                    *change(q, k, v, spec, slopes), *rest
                )
            ),
        )

    return plant


def _tile_key_heads(patcher: Patcher) -> None:
    def wrap(attention):
        def faulty(q, k, v, *rest):
            B, H, T, D = q.shape
            K = k.shape[1]
            mixed = q.reshape(B, H // K, K, T, D).swapaxes(1, 2).reshape(B, H, T, D)
            y = attention(mixed, k, v, *rest)
            return y.reshape(B, K, H // K, T, D).swapaxes(1, 2).reshape(B, H, T, D)

        return faulty

    patcher.wrap_table("attention", wrap)


def _change_mask(change: Function) -> Plant:
    """Make the attention mask by change(original, self, T, S, spec)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "context",
            "Context",
            "_make_mask",
            lambda original: lambda self, T, S, spec: change(original, self, T, S, spec),
        )

    return plant


def _show_next_key(original, self, T, S, spec):
    mask = self.relative_positions(T, S) >= -1
    return original(self, T, S, spec) if not spec.causal else mask


def _ignore_causality(original, self, T, S, spec):
    return original(self, T, S, replace(spec, causal=False))


def _widen_window(original, self, T, S, spec):
    wide = spec.window_size and spec.window_size + 1
    return original(self, T, S, replace(spec, window_size=wide))


def _share_qk_norm(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, x, ctx):
            if self.spec.qk_norm != "head":
                return original(self, x, ctx)
            saved, self.k_norm = self.k_norm, self.q_norm
            try:
                return original(self, x, ctx)
            finally:
                self.k_norm = saved

        return faulty

    patcher.wrap_forward("Attention", wrap)


def _change_sinks(change: Function) -> Plant:
    """Call attention with other sinks, change(sinks)."""

    def plant(patcher: Patcher) -> None:
        def wrap(attention):
            def faulty(q, k, v, spec, slopes, sinks, *rest):
                other = None if sinks is None else change(sinks)
                return attention(q, k, v, spec, slopes, other, *rest)

            return faulty

        patcher.wrap_table("attention", wrap)

    return plant


def _clip_above(patcher: Patcher) -> None:
    def wrap(clip):
        return lambda x, bound: x - (x - clip(x, bound)) * (x > 0)

    patcher.wrap_table("clip", wrap)


def _gate_by_silu(patcher: Patcher) -> None:
    patcher.wrap_table("sigmoid", lambda sigmoid: lambda x: x * sigmoid(x))


def _open_gate(patcher: Patcher) -> None:
    patcher.wrap_table("sigmoid", lambda sigmoid: lambda x: x * 0 + 1)


def _clip_after_norm(patcher: Patcher) -> None:
    """Queries and keys are clipped as the kernel reads them, not after their projections."""
    patcher.wrap_table("clip", lambda clip: lambda x, bound: x)

    def wrap(attention):
        def faulty(q, k, v, spec, *rest):
            clip = patcher.load_module("ops").clip
            if spec.clip_qkv is not None:
                q, k, v = (clip(x, spec.clip_qkv) for x in (q, k, v))
            return attention(q, k, v, spec, *rest)

        return faulty

    patcher.wrap_table("attention", wrap)


def _skip_plain_norm(patcher: Patcher) -> None:
    def wrap(normalize):
        def faulty(x, norm, weight, bias):
            return x if weight is None else normalize(x, norm, weight, bias)

        return faulty

    patcher.wrap_table("normalize", wrap)


def _share_weights_of_heads(patcher: Patcher) -> None:
    """All heads get the first one's weight, as if there were one for all."""

    def wrap(normalize):
        def faulty(x, norm, weight, bias):
            first = weight[:1] if weight is not None and weight.ndim > 1 else weight
            return normalize(x, norm, first, bias)

        return faulty

    patcher.wrap_table("normalize", wrap)


def _keep_mean_of_heads(patcher: Patcher) -> None:
    """The layernorm of queries and keys is an rmsnorm."""

    def wrap(original):
        def faulty(self, *arguments):
            original(self, *arguments)
            self.norm = RMSNorm(self.norm.eps)

        return faulty

    patcher.wrap_method("model", "HeadNorm", "__init__", wrap)


def _norm_before_rope(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, *arguments):
            original(self, *arguments)
            self.norms_before, self.norms_after = self.norms_after, False

        return faulty

    patcher.wrap_method("model", "Attention", "__init__", wrap)


def _use_finite_mask(patcher: Patcher) -> None:
    """Both backends' attention writes -inf as -math.inf, so another `math` changes the mask."""
    ops = patcher.load_module("ops")

    class SmallInfinity:
        inf, pi, e = 1e4, np.pi, np.e
        sqrt = staticmethod(np.sqrt)

    patcher.replace(ops, "math", SmallInfinity)


def _make_fault(name: str, case: str, plant: Plant, law: str = "L1/logits") -> Fault:
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"

FAULTS = (
    _make_fault("a query sees the next key", DEFAULT, _change_mask(_show_next_key)),
    _make_fault("nothing is causal", DEFAULT, _change_mask(_ignore_causality)),
    _make_fault(
        "the window is one wider", "attention.mask=window/hot", _change_mask(_widen_window)
    ),
    _make_fault(
        "the window is ignored",
        "attention.mask=window/hot",
        _change_mask(
            lambda original, self, T, S, spec: original(self, T, S, replace(spec, window_size=None))
        ),
    ),
    _make_fault("key heads are tiled, not repeated", "attention.heads=4/2/hot", _tile_key_heads),
    _make_fault(
        "key heads are tiled, in whole numbers",
        "integer.grouped heads/float32",
        _tile_key_heads,
        "L0/integers",
    ),
    _make_fault(
        "scores are scaled by the model's width",
        DEFAULT,
        _change_arguments(lambda q, k, v, spec, s: (q, k, v, replace(spec, scale=24**-0.5), s)),
    ),
    _make_fault(
        "scale is ignored",
        "attention.scale=0.3/hot",
        _change_arguments(lambda q, k, v, spec, s: (q, k, v, replace(spec, scale=None), s)),
    ),
    _make_fault(
        "attention's softcap is ignored",
        "attention.softcap=2/hot",
        _change_arguments(lambda q, k, v, spec, s: (q, k, v, replace(spec, softcap=None), s)),
    ),
    _make_fault("the values' bias is ignored", "attention.bias=qkv/hot", drop_bias("v_proj")),
    _make_fault("the output's bias is ignored", "attention.bias=o/hot", drop_bias("o_proj")),
    _make_fault("queries and keys share a norm", "attention.qk_norm=head/hot", _share_qk_norm),
    _make_fault(
        "each head's norm has the first head's weight",
        "attention.qk_norm=each_head/hot",
        _share_weights_of_heads,
    ),
    _make_fault(
        "queries and keys keep their mean",
        "attention.qk_norm=head layernorm/hot",
        _keep_mean_of_heads,
    ),
    _make_fault(
        "queries and keys are normed before they are rotated",
        "attention.qk_norm=after rope/hot",
        _norm_before_rope,
    ),
    _make_fault(
        "queries, keys and values are clipped late",
        "attention.clip_qkv=0.8 qk_norm/hot",
        _clip_after_norm,
    ),
    _make_fault(
        "queries, keys and values are clipped from above only",
        "attention.clip_qkv=0.8/hot",
        _clip_above,
    ),
    _make_fault(
        "the sinks are left out", "attention.sinks=true/hot", _change_sinks(lambda s: None)
    ),
    _make_fault(
        "sinks are scaled as scores are",
        "attention.sinks=true/hot",
        _change_sinks(lambda sinks: sinks * 6**-0.5),
    ),
    _make_fault(
        "heads have each other's sinks",
        "attention.sinks=true/hot",
        _change_sinks(lambda sinks: sinks[[1, 0, 3, 2]]),
    ),
    _make_fault(
        "the output gate is silu, not sigmoid", "attention.output_gate=true/hot", _gate_by_silu
    ),
    _make_fault("the output gate is open", "attention.output_gate=true/hot", _open_gate),
    _make_fault(
        "a norm without weight is left out",
        "attention.qk_norm=head plain/hot",
        _skip_plain_norm,
    ),
    _make_fault(
        "masked scores are -1e4, not -inf",
        "edge.saturated attention/hot",
        _use_finite_mask,
    ),
)
