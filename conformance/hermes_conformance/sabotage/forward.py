"""Faults of the forward pass."""

from dataclasses import replace

import numpy as np

from hermes import positions
from hermes.spec import LayerNorm, NoNorm, RMSNorm, Rope
from hermes_conformance.sabotage.fault import Fault, Inside

FIELD = "L1/logits"


def _interleaved(inside: Inside) -> None:
    def make(rotate):
        def wrong(x, cos, sin):
            B, H, T, D = x.shape
            half = x.reshape(B, H, T, D // 2, 2).swapaxes(3, 4).reshape(B, H, T, D)
            turned = rotate(half, cos, sin)
            return turned.reshape(B, H, T, 2, D // 2).swapaxes(3, 4).reshape(B, H, T, D)

        return wrong

    inside.table("rotate", make)


def _rotate(change):
    def plant(inside: Inside) -> None:
        inside.table("rotate", lambda rotate: lambda x, cos, sin: change(rotate, x, cos, sin))

    return plant


def _rope(change):
    """change(rope) in the place of the rope that tables are made of."""

    def plant(inside: Inside) -> None:
        inside.function(
            positions.rotary_frequencies,
            lambda original: lambda rope, size: original(change(rope), size),
        )

    return plant


def _angles(change):
    """change(cosines and sines) in the place of the tables."""

    def plant(inside: Inside) -> None:
        inside.function(
            positions.rotary_table,
            lambda original: lambda *arguments: tuple(map(change, original(*arguments))),
        )

    return plant


def _angles_in_float32(inside: Inside) -> None:
    def make(original):
        def wrong(rope, size, length):
            frequencies, magnitude = positions.rotary_frequencies(rope, size)
            places = np.arange(length, dtype=np.float32)[:, None]
            angles = (places * frequencies.astype(np.float32)[None, :]).astype(np.float32)
            return magnitude * np.cos(angles, dtype=float), magnitude * np.sin(angles, dtype=float)

        return wrong

    inside.function(positions.rotary_table, make)


def _keys_not_turned(inside: Inside) -> None:
    turn = [0]

    def change(rotate, x, cos, sin):
        turn[0] += 1
        return rotate(x, cos, sin) if turn[0] % 2 else x

    _rotate(change)(inside)


def _norm(change):
    """change(x, norm, weight, bias) gives other arguments to the norm."""

    def plant(inside: Inside) -> None:
        inside.table("normalize", lambda normalize: lambda *given: normalize(*change(*given)))

    return plant


def _eps(factor):
    return _norm(
        lambda x, norm, w, b: (
            x,
            replace(norm, eps=factor * norm.eps) if hasattr(norm, "eps") else norm,
            w,
            b,
        )
    )


def _eps_outside(inside: Inside) -> None:
    def make(normalize):
        def wrong(x, norm, weight, bias):
            if not isinstance(norm, RMSNorm):
                return normalize(x, norm, weight, bias)
            scale = 1 + weight if norm.unit_offset else weight
            return x / ((x * x).mean(-1)[..., None] ** 0.5 + norm.eps) * scale

        return wrong

    inside.table("normalize", make)


def _unbiased(inside: Inside) -> None:
    def make(normalize):
        def wrong(x, norm, weight, bias):
            if not isinstance(norm, LayerNorm):
                return normalize(x, norm, weight, bias)
            y = normalize(x, replace(norm, bias=False), weight, None)
            y = y * ((x.shape[-1] - 1) / x.shape[-1]) ** 0.5
            return y + bias if norm.bias else y

        return wrong

    inside.table("normalize", make)


def _last_eps(inside: Inside) -> None:
    def make(original):
        def wrong(self, *arguments):
            original(self, *arguments)
            self.norm.norm = replace(self.norm.norm, eps=1e-6)

        return wrong

    inside.method("model", "Stack", "__init__", make)


def _attend(change):
    """change(q, k, v, spec, slopes) gives other arguments to attention."""

    def plant(inside: Inside) -> None:
        inside.table(
            "attend",
            lambda attend: (
                lambda q, k, v, spec, slopes, here, site: attend(
                    *change(q, k, v, spec, slopes), here, site
                )
            ),
        )

    return plant


def _tiled(inside: Inside) -> None:
    def make(attend):
        def wrong(q, k, v, spec, slopes, here, site):
            B, H, T, D = q.shape
            K = k.shape[1]
            mixed = q.reshape(B, H // K, K, T, D).swapaxes(1, 2).reshape(B, H, T, D)
            y = attend(mixed, k, v, spec, slopes, here, site)
            return y.reshape(B, K, H // K, T, D).swapaxes(1, 2).reshape(B, H, T, D)

        return wrong

    inside.table("attend", make)


def _seen(change):
    """change(visible, self, T, S, spec) in the place of the mask."""

    def plant(inside: Inside) -> None:
        inside.method(
            "context",
            "Context",
            "_visible",
            lambda original: lambda self, T, S, spec: change(original, self, T, S, spec),
        )

    return plant


def _sees_next(original, self, T, S, spec):
    seen = self.ahead(T, S) >= -1
    return original(self, T, S, spec) if not spec.causal else seen


def _not_causal(original, self, T, S, spec):
    return original(self, T, S, replace(spec, causal=False))


def _wider(original, self, T, S, spec):
    wide = spec.window_size and spec.window_size + 1
    return original(self, T, S, replace(spec, window_size=wide))


def _swapped_gate(inside: Inside) -> None:
    def make(original):
        def wrong(self, x, here):
            if not self.spec.gated:
                return original(self, x, here)
            h = self.act(self.up_proj(x)) * self.gate_proj(x)
            return here.drop(self.down_proj(h), self.spec.dropout, self.site)

        return wrong

    inside.forward("FeedForward", make)


def _normed(change):
    """change(place) is where the norm is taken from; None for no norm."""

    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, place, x):
                other = change(place)
                return x if other is None else original(self, other, x)

            return wrong

        inside.method("model", "Block", "normed", make)

    return plant


def _block(change):
    """Build every block from change(block spec) instead."""

    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, block, *arguments):
                original(self, block, *arguments)
                self.block = change(block)

            return wrong

        inside.method("model", "Block", "__init__", make)

    return plant


def _no_final_norm(inside: Inside) -> None:
    inside.forward("Stack", _without_norm)


def _without_norm(original):
    def wrong(self, tokens, here):
        kept, self.norm.norm = self.norm.norm, NoNorm()
        try:
            return original(self, tokens, here)
        finally:
            self.norm.norm = kept

    return wrong


def _shorter_head(inside: Inside) -> None:
    inside.forward(
        "Head", lambda original: lambda self, x, w: inside.shorter(original(self, x, w), "float32")
    )


def _no_bias(part):
    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, *arguments):
                owner = self if part is None else getattr(self, part)
                kept, owner.bias = owner.bias, None
                try:
                    return original(self, *arguments)
                finally:
                    owner.bias = kept

            return wrong

        inside.forward("Head" if part is None else "Attention", make)

    return plant


def _slopes(change):
    def plant(inside: Inside) -> None:
        inside.function(positions.alibi_slopes, lambda original: lambda H: change(original, H))

    return plant


def _plain_slopes(original, H):
    return 2.0 ** (-8.0 * (np.arange(H) + 1) / H)


def _scaleless(inside: Inside) -> None:
    def make(original):
        def wrong(self, tokens, here):
            kept, self.spec = self.spec, replace(self.spec, scale=None)
            try:
                return original(self, tokens, here)
            finally:
                self.spec = kept

        return wrong

    inside.forward("Stack", make)


def _shared_qk_norm(inside: Inside) -> None:
    def make(original):
        def wrong(self, x, here):
            if self.spec.qk_norm != "head":
                return original(self, x, here)
            kept, self.k_norm = self.k_norm, self.q_norm
            try:
                return original(self, x, here)
            finally:
                self.k_norm = kept

        return wrong

    inside.forward("Attention", make)


def _float32_inside(inside: Inside) -> None:
    inside.activation("silu", lambda found: lambda x: inside.shorter(found["silu"](x), "float32"))


def _field(name, case, plant, law=FIELD, only=None):
    return Fault(name, "forward", law, case, plant, only)


DEFAULT = "default/hot"
QUIET = "default/fresh"

FAULTS = (
    _field("rope interleaves its pairs", DEFAULT, _interleaved),
    _field("rope turns backwards", DEFAULT, _rotate(lambda r, x, c, s: r(x, c, -s))),
    _field("rope's base is 10,001", DEFAULT, _rope(lambda rope: replace(rope, theta=10_001.0))),
    _field("rope turns no keys", DEFAULT, _keys_not_turned),
    _field(
        "rope's tables are bfloat16",
        DEFAULT,
        _angles(lambda table: (table * 256).round() / 256),
    ),
    _field("rope's angles are float32", "edge.position 100,000/hot", _angles_in_float32),
    _field(
        "rope's scaling is dropped",
        "attention.position_encoding=rope-linear/hot",
        _rope(lambda rope: replace(rope, scaling=None)),
    ),
    _field(
        "llama3's high and low ends are plain linear",
        "attention.position_encoding=rope-llama3/hot",
        _rope(lambda rope: Rope(rope.theta / 8, rotary_dim=rope.rotary_dim)),
    ),
    _field(
        "yarn's attention factor is left out",
        "attention.position_encoding=rope-yarn/hot",
        _angles(lambda table: table / (0.1 * np.log(4.0) + 1.0)),
    ),
    _field("norm eps is 1e-6 for 1e-5", QUIET, _eps(0.1)),
    _field("norm eps is 1e-6, by vectors", "golden.llama/hot", _eps(0.1), "L1/golden"),
    _field("norm eps is 1e-6 for 1e-5, loud", DEFAULT, _eps(0.1)),
    _field("norm eps stands outside the root", QUIET, _eps_outside),
    _field("the final norm alone has another eps", DEFAULT, _last_eps),
    _field(
        "unit_offset is ignored",
        "block.norm=rmsnorm-offset/pre/hot",
        _norm(
            lambda x, n, w, b: (
                (x, replace(n, unit_offset=False), w, b) if isinstance(n, RMSNorm) else (x, n, w, b)
            )
        ),
    ),
    _field("the norm's weight is ignored", DEFAULT, _norm(lambda x, n, w, b: (x, n, w * 0 + 1, b))),
    _field(
        "layernorm for rmsnorm",
        DEFAULT,
        _norm(lambda x, n, w, b: (x - x.mean(-1)[..., None], n, w, b)),
    ),
    _field("layernorm divides by n - 1", "block.norm=layernorm/pre/hot", _unbiased),
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
    _field(
        "output's softcap is ignored",
        "output.softcap=5/hot",
        lambda inside: inside.table("soft_cap", lambda original: lambda x, cap: x),
    ),
    _field("gate and up are swapped", DEFAULT, _swapped_gate),
    _field(
        "gelu is the tanh approximation",
        "ffn.activation=gelu/hot",
        lambda inside: inside.activation("gelu", lambda found: found["gelu_tanh"]),
    ),
    _field(
        "silu is gelu",
        DEFAULT,
        lambda inside: inside.activation("silu", lambda found: found["gelu_tanh"]),
    ),
    _field(
        "relu2 is relu",
        "ffn.activation=relu2/hot",
        lambda inside: inside.activation("relu2", lambda found: found["relu"]),
    ),
    _field(
        "the second norm is the first one again",
        DEFAULT,
        _normed(lambda place: "attention_in" if place == "ffn_in" else place),
    ),
    _field(
        "a sandwich without its last norm",
        "block.norm=rmsnorm/sandwich/hot",
        _normed(lambda place: None if place == "ffn_out" else place),
    ),
    _field("no final norm", DEFAULT, _no_final_norm),
    _field("the head computes in float32", DEFAULT, _shorter_head),
    _field("float32 inside float64's silu", QUIET, _float32_inside, "L1/canary"),
    _field("the head's bias is ignored", "output.bias=true/hot", _no_bias(None)),
    _field("the values' bias is ignored", "attention.bias=qkv/hot", _no_bias("v_proj")),
    _field(
        "slopes of six heads as of eight",
        "attention.position_encoding=alibi/6/hot",
        _slopes(_plain_slopes),
    ),
    _field(
        "slopes in the wrong order",
        "attention.position_encoding=alibi/hot",
        _slopes(lambda original, H: original(H)[::-1].copy()),
    ),
    _field("queries and keys share a norm", "attention.qk_norm=head/hot", _shared_qk_norm),
    _field("the embeddings' scale is ignored", "embeddings.scale=4.9/hot", _scaleless),
    _field(
        "a parallel block runs in series",
        "block.parallel=true/hot",
        _block(lambda block: replace(block, parallel=False)),
    ),
    _field(
        "residual: false is ignored",
        "block.residual=false/hot",
        _block(lambda block: replace(block, residual=True)),
    ),
    _field(
        "masked scores are -1e4, not -inf",
        "edge.saturated attention/hot",
        lambda inside: _finite_mask(inside),
    ),
)


def _finite_mask(inside: Inside) -> None:
    """-inf is spelt math.inf in both backends' attention."""
    ops = inside.module("ops")

    class Small:
        inf, pi, e = 1e4, np.pi, np.e
        sqrt = staticmethod(np.sqrt)

    inside.replace(ops, "math", Small)
