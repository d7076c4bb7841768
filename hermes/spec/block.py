"""One layer: attention, the feed-forward network, and the norms and residuals around them."""

import math
from dataclasses import dataclass

from hermes.errors import SpecError
from hermes.spec.checks import check_choice, check_positive, check_rate, check_size, check_types
from hermes.spec.parts import NoNorm, Norm, Positions, RMSNorm, Rope

BIASES = ("none", "qkv", "all")
QK_NORMS = ("none", "head", "flat")
NORM_POSITIONS = ("pre", "post", "output", "sandwich")
ACTIVATIONS = ("swiglu", "geglu", "gelu", "gelu_tanh", "silu", "relu", "relu2")


@dataclass(frozen=True)
class AttentionSpec:
    """Grouped-query attention.

    num_heads H; num_kv_heads K (None: H); head_dim D (None: C / H); window_size W in keys,
    including the query's own (None: no window); softcap c: scores become c tanh(scores / c);
    scale: factor of q.k (None: 1 / sqrt(D)). name: of the definition in a MAL file, "" if inline.
    Sources: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    bias: str = "none"
    dropout: float = 0.0
    causal: bool = True
    window_size: int | None = None
    position_encoding: Positions = Rope()
    qk_norm: str = "none"
    softcap: float | None = None
    scale: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        check_size(self, "num_heads")
        check_size(self, "num_kv_heads")
        check_size(self, "head_dim")
        check_choice(self, "bias", BIASES)
        check_rate(self)
        check_size(self, "window_size")
        check_choice(self, "qk_norm", QK_NORMS)
        check_positive(self, "softcap")
        check_positive(self, "scale")
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise SpecError(
                f"num_kv_heads is {self.num_kv_heads}, "
                f"which does not divide num_heads {self.num_heads}",
                ("num_kv_heads",),
            )

    @property
    def kv_heads(self) -> int:
        """K; equal to H where num_kv_heads is None."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """D of a resolved spec."""
        assert self.head_dim is not None, "only specs in ModelSpec.layers are resolved"
        return self.head_dim

    @property
    def score_scale(self) -> float:
        """The factor of q.k: `scale`, or 1 / sqrt(D)."""
        return self.scale if self.scale is not None else 1 / math.sqrt(self.head_size)

    @property
    def rotary_size(self) -> int:
        """How many leading elements of a head are rotated; 0 without RoPE."""
        if not isinstance(self.position_encoding, Rope):
            return 0
        return self.position_encoding.rotary_dim or self.head_size


@dataclass(frozen=True)
class FfnSpec:
    """The feed-forward network: down(act(up(x))), or down(act(gate(x)) * up(x)) if gated.

    hidden_dim F (None: 4 C); gate (None: true for swiglu and geglu, false for the others). Source:
    Shazeer 2020, arXiv:2002.05202.
    """

    hidden_dim: int | None = None
    activation: str = "swiglu"
    gate: bool | None = None
    bias: bool = False
    dropout: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        check_size(self, "hidden_dim")
        check_choice(self, "activation", ACTIVATIONS)
        check_rate(self)
        if self.activation in ("swiglu", "geglu") and self.gate is False:
            plain = {"swiglu": "silu", "geglu": "gelu"}[self.activation]
            raise SpecError(
                f"{self.activation} is gated by definition; write activation: {plain} "
                "for the form without a gate",
                ("gate",),
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

    norm_position, for a sublayer f: pre x + f(norm(x)); post norm(x + f(x)); output
    x + norm(f(x)); sandwich x + norm(f(norm(x))). parallel: both sublayers read the same x, each
    through its own norm; shared_norm: both through one. residual_scale s: what a sublayer adds is
    multiplied by s (None: 1).
    """

    attention: AttentionSpec
    ffn: FfnSpec = FfnSpec()
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
    def qk_norm(self) -> RMSNorm:
        """The norm of queries and keys, where attention.qk_norm is not none."""
        offset = isinstance(self.norm, RMSNorm) and self.norm.unit_offset
        return RMSNorm(eps=self.norm_eps, unit_offset=offset)
