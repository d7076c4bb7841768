"""The architecture as plain data: what a MAL file means, and all that a backend is told.

Frozen dataclasses, validated where they are made; a field left at None is derived from its
surroundings. Backends read `ModelSpec.layers`, where every number is filled in. Imports nothing
but errors; the language itself is in `hermes.mal`, the truth about each field in `specs/mal.md`.

Letters: V vocabulary, C hidden size, L layers, H query heads, K key/value heads, D head size,
F feed-forward size, T positions.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hermes.errors import SpecError, nearest

__all__ = [
    "ACTIVATIONS",
    "BIASES",
    "NORM_POSITIONS",
    "QK_NORMS",
    "SLOPES",
    "Alibi",
    "AttentionSpec",
    "BlockSpec",
    "EmbeddingsSpec",
    "FfnSpec",
    "LayerNorm",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "ModelSpec",
    "NoNorm",
    "NoPositions",
    "Norm",
    "OutputSpec",
    "Positions",
    "RMSNorm",
    "Rope",
    "Scaling",
    "YarnScaling",
    "field_types",
]

BIASES = ("none", "qkv", "all")
QK_NORMS = ("none", "head", "flat")
SLOPES = ("fixed", "learned")
NORM_POSITIONS = ("pre", "post", "output", "sandwich")
ACTIVATIONS = ("swiglu", "geglu", "gelu", "gelu_tanh", "silu", "relu", "relu2")

MAX_SIZE = 2**31 - 1
MAX_LAYERS = 10_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
# Control characters and halves of surrogate pairs, which no file of text should carry.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_WANTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@cache
def field_types(cls: Any) -> Mapping[str, tuple[type, ...]]:
    """The types that each field of a spec may have, as its annotations say."""
    hints = get_type_hints(cls)
    return {
        field.name: get_args(hint) if isinstance(hint, UnionType) else (get_origin(hint) or hint,)
        for field in dataclasses.fields(cls)
        for hint in [hints[field.name]]
    }


def _check_types(spec: Any) -> None:
    """Refuse what the annotations do not allow; keep numbers as floats, so that 1 is 1.0."""
    for name, types in field_types(spec.__class__).items():
        value = getattr(spec, name)
        if float in types and isinstance(value, int | float) and not isinstance(value, bool):
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
            if not math.isfinite(value):
                raise SpecError(f"{name} must be finite, got {value!r}", (name,))
            object.__setattr__(spec, name, value)
        elif type(value) not in types:
            wanted = " or ".join(_WANTED.get(t, t.__name__) for t in types if t is not NoneType)
            raise SpecError(f"{name} must be {wanted}, got {_short(value)}", (name,))
        elif isinstance(value, str) and (found := _UNPRINTABLE.search(value)):
            raise SpecError(f"{name} has the control character {found[0]!r} in it", (name,))
    label = getattr(spec, "name", "")
    if label and not _NAME.fullmatch(label):
        raise SpecError(
            f"name is {_short(label)}; it must be a letter or _, then letters, digits, _ or -, "
            "100 at most",
            ("name",),
        )


def _short(value: object) -> str:
    """A value by repr, cut where it would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:40]}..."


def _size(spec: object, name: str) -> None:
    value = getattr(spec, name)
    if value is not None and not 1 <= value <= MAX_SIZE:
        raise SpecError(f"{name} must be from 1 to {MAX_SIZE}, got {_short(value)}", (name,))


def _positive(spec: object, name: str) -> None:
    value = getattr(spec, name)
    if value is not None and value <= 0:
        raise SpecError(f"{name} must be above 0, got {value!r}", (name,))


def _rate(spec: object, name: str = "dropout") -> None:
    value = getattr(spec, name)
    if not 0 <= value < 1:
        raise SpecError(f"{name} must be at least 0 and below 1, got {value!r}", (name,))


def _choice(spec: object, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(spec, name)
    if value not in choices:
        known, hint = ", ".join(choices), nearest(value, choices)
        raise SpecError(f"{name} is {_short(value)}; it must be one of {known}{hint}", (name,))


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor`. Source: Chen et al. 2023, arXiv:2306.15595."""

    factor: float

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "factor")


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_seq_len: int

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "factor")
        _positive(self, "low_freq_factor")
        _positive(self, "high_freq_factor")
        _size(self, "original_max_seq_len")
        if self.high_freq_factor <= self.low_freq_factor:
            raise SpecError(
                f"high_freq_factor {self.high_freq_factor} must be above "
                f"low_freq_factor {self.low_freq_factor}",
                ("high_freq_factor",),
            )


@dataclass(frozen=True)
class YarnScaling:
    """NTK-by-parts, with attention scaled by 0.1 ln(factor) + 1.

    beta_fast, beta_slow: rotations over the original length between which the ramp runs.
    Source: Peng et al. 2023, YaRN, arXiv:2309.00071, eqs. 17 to 23.
    """

    factor: float
    original_max_seq_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "factor")
        _size(self, "original_max_seq_len")
        _positive(self, "beta_fast")
        _positive(self, "beta_slow")
        if self.beta_fast <= self.beta_slow:
            raise SpecError(
                f"beta_fast {self.beta_fast} must be above beta_slow {self.beta_slow}",
                ("beta_fast",),
            )


Scaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions, half-split pairs, as in Llama. Source: Su et al. 2021, arXiv:2104.09864.

    rotary_dim: how many of a head's leading elements turn; None for all.
    """

    theta: float = 10_000.0
    scaling: Scaling | None = None
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "theta")
        _size(self, "rotary_dim")
        if self.rotary_dim is not None and self.rotary_dim % 2:
            raise SpecError(f"rotary_dim must be even, got {self.rotary_dim}", ("rotary_dim",))


@dataclass(frozen=True)
class Learned:
    """A trained vector per position, added to the embeddings; None for max_seq_len of them."""

    max_positions: int | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _size(self, "max_positions")


@dataclass(frozen=True)
class Alibi:
    """A penalty per head that grows with distance. Source: Press et al. 2021, arXiv:2108.12409."""

    slopes: str = "fixed"

    def __post_init__(self) -> None:
        _check_types(self)
        _choice(self, "slopes", SLOPES)


@dataclass(frozen=True)
class NoPositions:
    """No positions at all (NoPE)."""


Positions = Rope | Learned | Alibi | NoPositions


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * w, or * (1 + w) with unit_offset.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """

    eps: float = 1e-5
    unit_offset: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "eps")


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(var + eps) * w + b. Source: Ba et al. 2016, arXiv:1607.06450."""

    eps: float = 1e-5
    bias: bool = True

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "eps")


@dataclass(frozen=True)
class NoNorm:
    """The identity."""


Norm = RMSNorm | LayerNorm | NoNorm


@dataclass(frozen=True)
class AttentionSpec:
    """Grouped-query attention. Sources: Vaswani et al. 2017; Ainslie et al. 2023, arXiv:2305.13245.

    num_heads H and num_kv_heads K in heads; head_dim D; window_size W in keys, a query's own
    included (None: all); softcap c: scores become c tanh(scores / c); scale multiplies q.k.
    name: the definition's name in a MAL file, "" where it stands inline.
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
        _check_types(self)
        _size(self, "num_heads")
        _size(self, "num_kv_heads")
        _size(self, "head_dim")
        _choice(self, "bias", BIASES)
        _rate(self)
        _size(self, "window_size")
        _choice(self, "qk_norm", QK_NORMS)
        _positive(self, "softcap")
        _positive(self, "scale")
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise SpecError(
                f"num_kv_heads is {self.num_kv_heads}, "
                f"which does not divide num_heads {self.num_heads}",
                ("num_kv_heads",),
            )

    @property
    def kv_heads(self) -> int:
        """K, where num_kv_heads left out means one per query head."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """D of a resolved spec."""
        assert self.head_dim is not None, "only specs in ModelSpec.layers are resolved"
        return self.head_dim

    @property
    def score_scale(self) -> float:
        """What multiplies q.k; 1 / sqrt(D) unless the spec says otherwise."""
        return self.scale if self.scale is not None else 1 / math.sqrt(self.head_size)

    @property
    def rotary_size(self) -> int:
        """How many leading elements of a head turn; 0 without rope."""
        if not isinstance(self.position_encoding, Rope):
            return 0
        return self.position_encoding.rotary_dim or self.head_size


@dataclass(frozen=True)
class FfnSpec:
    """down(act(up(x))), or down(act(gate(x)) * up(x)) where gated. Source: Shazeer 2020,
    arXiv:2002.05202.

    hidden_dim F (None: 4 C); gate None: true for swiglu and geglu, false for the others.
    """

    hidden_dim: int | None = None
    activation: str = "swiglu"
    gate: bool | None = None
    bias: bool = False
    dropout: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        _size(self, "hidden_dim")
        _choice(self, "activation", ACTIVATIONS)
        _rate(self)
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
        """The elementwise function: gelu, gelu_tanh, silu, relu or relu2."""
        return {"swiglu": "silu", "geglu": "gelu"}.get(self.activation, self.activation)


@dataclass(frozen=True)
class BlockSpec:
    """One layer: attention, then the feed-forward network, each with its norms and residual.

    norm_position: pre x + f(norm(x)); post norm(x + f(x)); output x + norm(f(x));
    sandwich x + norm(f(norm(x))). parallel: both read the same x, each through its own norm.
    """

    attention: AttentionSpec
    ffn: FfnSpec = FfnSpec()
    norm: Norm = RMSNorm()
    norm_position: str = "pre"
    residual: bool = True
    dropout: float = 0.0
    parallel: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        _choice(self, "norm_position", NORM_POSITIONS)
        _rate(self)
        if self.parallel and self.norm_position == "post":
            raise SpecError(
                "a parallel block has no place for norm_position post, which norms the sum after "
                "each sublayer; use pre, output or sandwich",
                ("norm_position",),
            )

    @property
    def norm_eps(self) -> float:
        """The eps that qk_norm shares with the block's norm."""
        return 1e-5 if isinstance(self.norm, NoNorm) else self.norm.eps

    @property
    def qk_norm(self) -> RMSNorm:
        """The norm of queries and keys, where the attention asks for one."""
        offset = isinstance(self.norm, RMSNorm) and self.norm.unit_offset
        return RMSNorm(eps=self.norm_eps, unit_offset=offset)


@dataclass(frozen=True)
class EmbeddingsSpec:
    """Token embeddings; `scale` multiplies them (Gemma: sqrt(C))."""

    tie_weights: bool = False
    dropout: float = 0.0
    scale: float | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _rate(self)


@dataclass(frozen=True)
class OutputSpec:
    """The final norm (None: the last block's) and the head; softcap c: c tanh(logits / c)."""

    bias: bool = False
    norm: Norm | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _positive(self, "softcap")


@dataclass(frozen=True)
class ModelSpec:
    """A whole model. `blocks` is the pattern, cycled over num_layers; usually one block."""

    blocks: tuple[BlockSpec, ...]
    name: str = "model"
    description: str = ""
    vocab_size: int = 32_000
    max_seq_len: int = 2048
    hidden_size: int = 768
    num_layers: int = 12
    embeddings: EmbeddingsSpec = EmbeddingsSpec()
    output: OutputSpec = OutputSpec()

    def __post_init__(self) -> None:
        _check_types(self)
        _size(self, "vocab_size")
        _size(self, "max_seq_len")
        _size(self, "hidden_size")
        _size(self, "num_layers")
        if self.num_layers > MAX_LAYERS:
            raise SpecError(
                f"num_layers must be at most {MAX_LAYERS}, got {self.num_layers}", ("num_layers",)
            )
        if not self.name:
            raise SpecError("a model needs a name", ("name",))
        if not self.blocks or not all(type(block) is BlockSpec for block in self.blocks):
            raise SpecError("blocks must be a tuple of at least one BlockSpec", ("blocks",))
        if len(self.blocks) > self.num_layers:
            raise SpecError(
                f"the pattern has {len(self.blocks)} blocks, more than num_layers "
                f"{self.num_layers}, so that some would never be built",
                ("blocks",),
            )
        for index, block in enumerate(self.blocks):
            self._check_head_size(block.attention, ("blocks", index, "attention"))
            self._check_ffn_size(block.ffn, ("blocks", index, "ffn"))
        self._check_names()
        self._check_learned_positions()

    def _check_head_size(self, attention: AttentionSpec, path: tuple[str | int, ...]) -> None:
        if attention.head_dim is None and self.hidden_size % attention.num_heads:
            raise SpecError(
                f"num_heads is {attention.num_heads}, which does not divide "
                f"hidden_size {self.hidden_size}; choose another or set head_dim",
                (*path, "num_heads"),
            )
        size = attention.head_dim or self.hidden_size // attention.num_heads
        if isinstance(attention.position_encoding, Rope):
            turning = attention.position_encoding.rotary_dim
            if turning is None and size % 2:
                raise SpecError(
                    f"attention needs an even head_dim for rope, got {size}",
                    (*path, "head_dim" if attention.head_dim else "num_heads"),
                )
            if turning is not None and turning > size:
                raise SpecError(
                    f"rotary_dim is {turning}, more than head_dim {size}",
                    (*path, "position_encoding", "rotary_dim"),
                )

    def _check_ffn_size(self, ffn: FfnSpec, path: tuple[str | int, ...]) -> None:
        if ffn.hidden_dim is None and 4 * self.hidden_size > MAX_SIZE:
            raise SpecError(
                f"hidden_dim, left out, would be 4 * hidden_size = {4 * self.hidden_size}, above "
                f"{MAX_SIZE}",
                path,
            )

    def _check_names(self) -> None:
        """One name, one definition: else no file could say which is meant."""
        known: dict[tuple[str, str], object] = {}
        for index, block in enumerate(self.blocks):
            parts = (("block", block), ("attention", block.attention), ("ffn", block.ffn))
            for kind, part in parts:
                if part.name and known.setdefault((kind, part.name), part) != part:
                    raise SpecError(
                        f"two different {kind} definitions of the pattern are both named "
                        f"{part.name!r}",
                        ("blocks", index) if kind == "block" else ("blocks", index, kind),
                    )

    def _check_learned_positions(self) -> None:
        first = None
        for index, block in enumerate(self.blocks):
            positions = block.attention.position_encoding
            if not isinstance(positions, Learned):
                continue
            size = positions.max_positions or self.max_seq_len
            first = first or size
            path = ("blocks", index, "attention", "position_encoding", "max_positions")
            if size != first:
                raise SpecError(
                    f"max_positions is {size} here and {first} in another block; the embedding of "
                    "positions is one for the whole model",
                    path,
                )
            if size < self.max_seq_len:
                raise SpecError(
                    f"max_positions is {size}, less than max_seq_len {self.max_seq_len}", path
                )

    @cached_property
    def layers(self) -> tuple[BlockSpec, ...]:
        """The L blocks in order, every derived field filled in: what a backend builds from."""
        resolved = [
            dataclasses.replace(
                block,
                attention=dataclasses.replace(
                    block.attention,
                    num_kv_heads=block.attention.kv_heads,
                    head_dim=block.attention.head_dim
                    or self.hidden_size // block.attention.num_heads,
                    name="",
                ),
                ffn=dataclasses.replace(
                    block.ffn,
                    hidden_dim=block.ffn.hidden_dim or 4 * self.hidden_size,
                    activation=block.ffn.function,
                    gate=block.ffn.gated,
                    name="",
                ),
                name="",
            )
            for block in self.blocks
        ]
        return tuple(resolved[i % len(resolved)] for i in range(self.num_layers))

    @property
    def final_norm(self) -> Norm:
        """The norm before the head."""
        return self.layers[-1].norm if self.output.norm is None else self.output.norm

    @property
    def learned_positions(self) -> int:
        """Rows of the position embedding; 0 where no block has learned positions."""
        for block in self.blocks:
            if isinstance(block.attention.position_encoding, Learned):
                return block.attention.position_encoding.max_positions or self.max_seq_len
        return 0

    @property
    def has_dropout(self) -> bool:
        """Whether any site drops anything in training."""
        rates = (
            rate
            for block in self.blocks
            for rate in (block.attention.dropout, block.ffn.dropout, block.dropout)
        )
        return self.embeddings.dropout > 0 or any(rate > 0 for rate in rates)

    @property
    def identity(self) -> tuple[object, ...]:
        """What decides the numbers a model computes; equal for two spellings of one model."""
        output = dataclasses.replace(self.output, norm=self.final_norm)
        sizes = (self.vocab_size, self.max_seq_len, self.hidden_size)
        layers = tuple(
            dataclasses.replace(block, attention=self._with_positions(block.attention))
            for block in self.layers
        )
        return (*sizes, layers, self.embeddings, output)

    def _with_positions(self, attention: AttentionSpec) -> AttentionSpec:
        """Resolved attention whose positions are, too, and whose scale is a number."""
        positions = attention.position_encoding
        match positions:
            case Rope():
                positions = dataclasses.replace(positions, rotary_dim=attention.rotary_size)
            case Learned():
                positions = Learned(self.learned_positions)
        scale = attention.score_scale
        return dataclasses.replace(attention, position_encoding=positions, scale=scale)
