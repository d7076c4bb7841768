"""Faults of the forward pass: norms, activations, blocks, embeddings and the head."""

from dataclasses import replace

from hermes.spec import LayerNorm, NoNorm, RMSNorm
from hermes_conformance.faults.fault import Fault, Inside


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


def _swapped_gate(inside: Inside) -> None:
    def make(original):
        def wrong(self, x, ctx):
            if not self.spec.gated:
                return original(self, x, ctx)
            h = self.act(self.up_proj(x)) * self.gate_proj(x)
            return ctx.dropout(self.down_proj(h), self.spec.dropout, self.site)

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

        inside.method("model", "Block", "apply_norm", make)

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
    def wrong(self, tokens, ctx):
        kept, self.norm.norm = self.norm.norm, NoNorm()
        try:
            return original(self, tokens, ctx)
        finally:
            self.norm.norm = kept

    return wrong


def _shorter_head(inside: Inside) -> None:
    inside.forward(
        "Head", lambda original: lambda self, x, w: inside.shorter(original(self, x, w), "float32")
    )


def no_bias(part):
    """The head's bias is ignored, or that of a part of attention."""

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


def _scaleless(inside: Inside) -> None:
    def make(original):
        def wrong(self, tokens, ctx):
            kept, self.spec = self.spec, replace(self.spec, scale=None)
            try:
                return original(self, tokens, ctx)
            finally:
                self.spec = kept

        return wrong

    inside.forward("Stack", make)


def _float32_inside(inside: Inside) -> None:
    inside.activation("silu", lambda found: lambda x: inside.shorter(found["silu"](x), "float32"))


def _field(name, case, plant, law="L1/logits"):
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"
QUIET = "default/fresh"

FAULTS = (
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
    _field("the head's bias is ignored", "output.bias=true/hot", no_bias(None)),
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
)
