"""Faults of the forward pass: activations and blocks."""

from dataclasses import replace

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def _swap_gate(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, x, ctx):
            if not self.spec.gated:
                return original(self, x, ctx)
            h = self.act(self.up_proj(x)) * self.gate_proj(x)
            return ctx.dropout(self.down_proj(h), self.spec.dropout, self.site)

        return faulty

    patcher.wrap_forward("FeedForward", wrap)


def _change_norm_position(change: Function) -> Plant:
    """Take the norm of another position, change(position); None for no norm."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, position, x):
                other = change(position)
                return x if other is None else original(self, other, x)

            return faulty

        patcher.wrap_method("model", "Block", "apply_norm", wrap)

    return plant


def _change_block(change: Function) -> Plant:
    """Build every block from change(block spec)."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, block, *arguments):
                original(self, block, *arguments)
                self.block = change(block)

            return faulty

        patcher.wrap_method("model", "Block", "__init__", wrap)

    return plant


def _scale_sum(patcher: Patcher) -> None:
    """Sublayers scale what they add to, not what they add alone."""

    def wrap(original):
        def faulty(self, part, x, y, ctx):
            scale = self.block.residual_scale or 1
            return original(self, part, scale * x, y, ctx)

        return faulty

    patcher.wrap_method("model", "Block", "add_output", wrap)


def _change_clamp(change: Function) -> Plant:
    """Compute the clamped swiglu by change(original, gate, up, limit, alpha)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_table("clamp_swiglu", lambda original: lambda *args: change(original, *args))

    return plant


def _skip_layers(part: str) -> Plant:
    """Layers that lack this part do nothing."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, x, ctx):
                return x if getattr(self, part) is None else original(self, x, ctx)

            return faulty

        patcher.wrap_forward("Block", wrap)

    return plant


def _norm_lonely_sum(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, x, ctx):
            y = original(self, x, ctx)
            return y if self.mlp is not None else self.apply_norm("attention_out", y)

        return faulty

    patcher.wrap_forward("Block", wrap)


def _norm_sum_again(patcher: Patcher) -> None:
    """With a shared norm the ffn reads the norm of x + attention, as a block in series would."""

    def wrap(original):
        def faulty(self, x, ctx):
            if not self.block.shared_norm:
                return original(self, x, ctx)
            a = self.self_attn(self.apply_norm("attention_in", x), ctx)
            h = self.add_output("attention", x, a, ctx)
            return self.add_output("ffn", h, self.mlp(self.apply_norm("attention_in", h), ctx), ctx)

        return faulty

    patcher.wrap_forward("Block", wrap)


def _compute_silu_in_float32(patcher: Patcher) -> None:
    patcher.wrap_activation(
        "silu", lambda functions: lambda x: patcher.round_to(functions["silu"](x), "float32")
    )


def _clip(x, limit):
    """x within +-limit, in operations that torch and MLX share: (|x + c| - |x - c|) / 2."""
    return (abs(x + limit) - abs(x - limit)) / 2


def _make_fault(name: str, case: str, plant: Plant, law: str = "L1/logits") -> Fault:
    return Fault(name, "forward", law, case, plant)


DEFAULT = "default/hot"
QUIET = "default/fresh"

FAULTS = (
    _make_fault("gate and up are swapped", DEFAULT, _swap_gate),
    _make_fault(
        "gelu is the tanh approximation",
        "ffn.activation=gelu/hot",
        lambda patcher: patcher.wrap_activation("gelu", lambda functions: functions["gelu_tanh"]),
    ),
    _make_fault(
        "silu is gelu",
        DEFAULT,
        lambda patcher: patcher.wrap_activation("silu", lambda functions: functions["gelu_tanh"]),
    ),
    _make_fault(
        "relu2 is relu",
        "ffn.activation=relu2/hot",
        lambda patcher: patcher.wrap_activation("relu2", lambda functions: functions["relu"]),
    ),
    _make_fault(
        "the clamped swiglu is not clamped",
        "ffn.limit=1.5/hot",
        _change_clamp(lambda original, g, u, limit, alpha: original(g, u, 1e9, alpha)),
    ),
    _make_fault(
        "the clamped swiglu lacks its 1",
        "ffn.limit=1.5/hot",
        _change_clamp(
            lambda original, g, u, limit, alpha: original(g, 0 * u, limit, alpha) * _clip(u, limit)
        ),
    ),
    _make_fault(
        "the clamped swiglu has silu's alpha",
        "ffn.limit=0.5/bias/fresh",
        _change_clamp(lambda original, g, u, limit, alpha: original(g, u, limit, 1.0)),
    ),
    _make_fault(
        "the gate is clamped from below, too",
        "ffn.limit=0.5/bias/hot",
        _change_clamp(
            lambda original, g, u, limit, alpha: original(_clip(g, limit), u, limit, alpha)
        ),
    ),
    _make_fault(
        "the second norm is the first one again",
        DEFAULT,
        _change_norm_position(lambda place: "attention_in" if place == "ffn_in" else place),
    ),
    _make_fault(
        "a sandwich without its last norm",
        "block.norm=rmsnorm/sandwich/hot",
        _change_norm_position(lambda place: None if place == "ffn_out" else place),
    ),
    _make_fault("float32 inside float64's silu", QUIET, _compute_silu_in_float32, "L1/canary"),
    _make_fault(
        "a parallel block runs in series",
        "block.parallel=true/hot",
        _change_block(lambda block: replace(block, parallel=False)),
    ),
    _make_fault(
        "residual: false is ignored",
        "block.residual=false/hot",
        _change_block(lambda block: replace(block, residual=True)),
    ),
    _make_fault(
        "a layer without attention is left out",
        "block.attention=none/hot",
        _skip_layers("self_attn"),
    ),
    _make_fault("a layer without ffn is left out", "block.ffn=none/hot", _skip_layers("mlp")),
    _make_fault(
        "a layer without ffn is normed after its sum",
        "block.ffn=none/sandwich/hot",
        _norm_lonely_sum,
    ),
    _make_fault(
        "a shared norm is that of the layer's sum",
        "block.shared_norm=true/layernorm/hot",
        _norm_sum_again,
    ),
    _make_fault(
        "the ffn reads x without the shared norm",
        "block.shared_norm=true/rmsnorm-offset/hot",
        _change_block(lambda block: replace(block, shared_norm=False)),
    ),
    _make_fault(
        "residual_scale is ignored",
        "block.residual_scale=0.22/hot",
        _change_block(lambda block: replace(block, residual_scale=None)),
    ),
    _make_fault(
        "residual_scale is applied to x, too",
        "block.residual_scale=0.22/hot",
        _scale_sum,
    ),
    _make_fault(
        "residual_scale is rounded to bfloat16",
        "block.residual_scale=0.22/fresh",
        _change_block(lambda block: replace(block, residual_scale=0.2197265625)),
    ),
)
