"""One layer: attention, the feed-forward network, and the norms and residuals around them."""

from dataclasses import dataclass
from typing import TypeGuard

from hermes.errors import SpecError
from hermes.spec.attention import AttentionSpec, QkNorm
from hermes.spec.checks import check_choice, check_positive, check_rate, check_size, check_types
from hermes.spec.parts import LayerNorm, NoNorm, Norm, RMSNorm

NORM_POSITIONS = ("pre", "post", "output", "sandwich")
ACTIVATIONS = ("swiglu", "geglu", "gelu", "gelu_tanh", "silu", "relu", "relu2")


@dataclass(frozen=True)
class FfnSpec:
    """The feed-forward network: down(act(up(x))), or down(act(gate(x)) * up(x)) if gated.

    hidden_dim F (None: 4 C); gate (None: true for swiglu and geglu, false for the others). Source:
    Shazeer 2020, arXiv:2002.05202. limit c and alpha a, of swiglu: with g the gate and u the up
    projection, min(g, c) sigmoid(a min(g, c)) (clip(u, -c, c) + 1). Source: OpenAI 2025,
    gpt-oss model card, arXiv:2508.10925, and its reference code.
    """

    hidden_dim: int | None = None
    activation: str = "swiglu"
    gate: bool | None = None
    bias: bool = False
    dropout: float = 0.0
    limit: float | None = None
    alpha: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        check_size(self, "hidden_dim")
        check_positive(self, "limit")
        check_positive(self, "alpha")
        check_choice(self, "activation", ACTIVATIONS)
        check_rate(self)
        if self.activation in ("swiglu", "geglu") and self.gate is False:
            plain = {"swiglu": "silu", "geglu": "gelu"}[self.activation]
            raise SpecError(
                f"{self.activation} is gated by definition; write activation: {plain} "
                "for the form without a gate",
                ("gate",),
            )
        self._check_limit()

    def _check_limit(self) -> None:
        given = [key for key in ("limit", "alpha") if getattr(self, key) is not None]
        if not given:
            return
        if self.function != "silu" or not self.gated:
            raise SpecError(
                f"{given[0]} is of the clamped swiglu; it has no meaning with activation "
                f"{self.activation}",
                (given[0],),
            )
        if len(given) == 1:
            raise SpecError(
                "the clamped swiglu takes limit and alpha together; gpt-oss has limit: 7.0 and "
                "alpha: 1.702",
                (given[0],),
            )

    @property
    def hidden_size(self) -> int:
        """F of a resolved spec."""
        assert self.hidden_dim is not None, "only specs in ModelSpec.layers are resolved"
        return self.hidden_dim

    @property
    def gated(self) -> bool:
        """Whether a gate projection multiplies the up projection."""
        return self.activation in ("swiglu", "geglu") if self.gate is None else self.gate

    @property
    def function(self) -> str:
        """The elementwise activation: gelu, gelu_tanh, silu, relu or relu2."""
        return {"swiglu": "silu", "geglu": "gelu"}.get(self.activation, self.activation)


@dataclass(frozen=True)
class BlockSpec:
    """One layer: attention, then the feed-forward network, each with its norms and residual.

    Either may be None: a layer without it, which has none of its norms either.
    norm_position, for a sublayer f: pre x + f(norm(x)); post norm(x + f(x)); output
    x + norm(f(x)); sandwich x + norm(f(norm(x))). parallel: both sublayers read the same x, each
    through its own norm; shared_norm: both through one. residual_scale s: what a sublayer adds is
    multiplied by s (None: 1).
    """

    attention: AttentionSpec | None
    ffn: FfnSpec | None = FfnSpec()
    norm: Norm = RMSNorm()
    norm_position: str = "pre"
    residual: bool = True
    dropout: float = 0.0
    parallel: bool = False
    residual_scale: float | None = None
    shared_norm: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        check_choice(self, "norm_position", NORM_POSITIONS)
        check_rate(self)
        check_positive(self, "residual_scale")
        if self.attention is None and self.ffn is None:
            raise SpecError("a block needs attention, ffn or both; both are none", ("attention",))
        if self.parallel and (self.attention is None or self.ffn is None):
            missing = "attention" if self.attention is None else "ffn"
            raise SpecError(
                f"a parallel block has attention and ffn, and here {missing} is none",
                ("parallel",),
            )
        if self.parallel and self.norm_position == "post":
            raise SpecError(
                "a parallel block has no place for norm_position post, which norms the sum after "
                "each sublayer; use pre, output or sandwich",
                ("norm_position",),
            )
        if self.shared_norm and not (self.parallel and self.norm_position == "pre"):
            raise SpecError(
                "shared_norm needs parallel: true and norm_position pre, where attention and ffn "
                "read the same x",
                ("shared_norm",),
            )

    @property
    def norm_eps(self) -> float:
        """The eps of the block's norm, which qk_norm shares."""
        return 1e-5 if isinstance(self.norm, NoNorm) else self.norm.eps

    @property
    def qk_norm(self) -> RMSNorm | LayerNorm:
        """The norm of queries and keys, where attention.qk_norm is not none."""
        form = (self.attention and self.attention.query_key_norm) or QkNorm()
        if form.norm == "layernorm":
            return LayerNorm(eps=self.norm_eps, bias=form.bias, weight=form.weight)
        offset = isinstance(self.norm, RMSNorm) and self.norm.unit_offset and form.weight
        return RMSNorm(eps=self.norm_eps, unit_offset=offset, weight=form.weight)


class WholeBlock(BlockSpec):
    """A block that has both sublayers: a type for checkers, of blocks that pass `is_whole`."""

    attention: AttentionSpec
    ffn: FfnSpec


def is_whole(block: BlockSpec) -> TypeGuard[WholeBlock]:
    """Whether a block has attention and a feed-forward network."""
    return block.attention is not None and block.ffn is not None
