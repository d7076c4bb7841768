"""Attention of a layer: its heads, its norms and biases, and how scores are made."""

import math
from dataclasses import dataclass

from hermes.errors import SpecError
from hermes.spec.checks import check_choice, check_positive, check_rate, check_size, check_types
from hermes.spec.parts import Positions
from hermes.spec.rope import Rope

BIASES = ("none", "qkv", "all", "o")
QK_NORMS = ("none", "head", "flat")
QK_NORM_RANGES = ("head", "flat", "each_head")
QK_NORM_KINDS = ("rmsnorm", "layernorm")


@dataclass(frozen=True)
class QkNorm:
    """The norm of queries and keys, with the eps of the block's norm.

    over: 'head', each head with one weight for all, as in Qwen3; 'flat', all heads together, as in
    OLMo 2; 'each_head', each head with a weight of its own, as in StableLM 2 and Cohere. norm:
    'rmsnorm' (with the unit_offset of an rmsnorm of the block) or 'layernorm'. weight: whether
    there is a trained one; nanochat has none. bias: whether a layernorm has one, as in Persimmon.
    after_rope: whether queries and keys are rotated first, as in HunYuan.
    """

    over: str = "head"
    norm: str = "rmsnorm"
    weight: bool = True
    bias: bool = False
    after_rope: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_choice(self, "over", QK_NORM_RANGES)
        check_choice(self, "norm", QK_NORM_KINDS)
        if self.over == "each_head" and not self.weight:
            raise SpecError(
                "over: each_head gives each head a weight of its own, so weight: false leaves "
                "nothing of it; write over: head",
                ("over",),
            )
        if self.bias and (self.norm != "layernorm" or not self.weight):
            raise SpecError("qk_norm has a bias only as a layernorm with a weight", ("bias",))


@dataclass(frozen=True)
class AttentionSpec:
    """Grouped-query attention.

    num_heads H; num_kv_heads K (None: H); head_dim D (None: C / H); window_size W in keys,
    including the query's own (None: no window); softcap c: scores become c tanh(scores / c);
    scale: factor of q.k (None: 1 / sqrt(D)). qk_norm: 'none', 'head', 'flat' or a QkNorm, which
    becomes the word that means the same, if one does. v_head_dim: of values (None: D). clip_qkv c:
    q, k and v are clipped to -c .. c after their projections. sinks: a trained score per head that
    joins the softmax and has no value. output_gate: heads are multiplied by sigmoid(gate(x)) before
    the output projection; the gate has a bias where q has one. name: of the definition in a MAL
    file, "" if inline. Sources: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023,
    arXiv:2305.13245; Xiao et al. 2023, arXiv:2309.17453 (sinks); Qiu et al. 2025, arXiv:2505.06708
    (gates).
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    bias: str = "none"
    dropout: float = 0.0
    causal: bool = True
    window_size: int | None = None
    position_encoding: Positions = Rope()
    qk_norm: str | QkNorm = "none"
    softcap: float | None = None
    scale: float | None = None
    v_head_dim: int | None = None
    clip_qkv: float | None = None
    sinks: bool = False
    output_gate: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        check_types(self)
        check_size(self, "num_heads")
        check_size(self, "num_kv_heads")
        check_size(self, "head_dim")
        check_choice(self, "bias", BIASES)
        check_rate(self)
        check_size(self, "window_size")
        if isinstance(self.qk_norm, QkNorm):
            if self.qk_norm in (QkNorm("head"), QkNorm("flat")):
                object.__setattr__(self, "qk_norm", self.qk_norm.over)
        elif self.qk_norm == "each_head":
            raise SpecError(
                "qk_norm is 'each_head', which is written qk_norm { over: each_head }", ("qk_norm",)
            )
        else:
            check_choice(self, "qk_norm", QK_NORMS)
        check_positive(self, "softcap")
        check_positive(self, "scale")
        check_size(self, "v_head_dim")
        check_positive(self, "clip_qkv")
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
    def value_size(self) -> int:
        """The head size of values of a resolved spec."""
        return self.v_head_dim or self.head_size

    @property
    def has_qkv_bias(self) -> bool:
        """Whether the projections of queries, keys and values, and of a gate, have a bias."""
        return self.bias in ("qkv", "all")

    @property
    def has_output_bias(self) -> bool:
        """Whether the output projection has a bias."""
        return self.bias in ("all", "o")

    @property
    def query_key_norm(self) -> QkNorm | None:
        """The norm of queries and keys in full; None where there is none."""
        if isinstance(self.qk_norm, QkNorm):
            return self.qk_norm
        return None if self.qk_norm == "none" else QkNorm(self.qk_norm)

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
