"""The small parts of a block: position encodings, RoPE scaling, and norms."""

from dataclasses import dataclass
from typing import ClassVar

from hermes.errors import SpecError
from hermes.spec.checks import check_choice, check_positive, check_size, check_types

SLOPES = ("fixed", "learned")


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor`. Source: Chen et al. 2023, arXiv:2306.15595."""

    factor: float

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "factor")


@dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a linear ramp between.

    low_freq_factor, high_freq_factor: rotations over the original length between which the ramp
    runs. Source: Llama 3.1's reference code; Grattafiori et al. 2024, arXiv:2407.21783.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_seq_len: int

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "factor")
        check_positive(self, "low_freq_factor")
        check_positive(self, "high_freq_factor")
        check_size(self, "original_max_seq_len")
        if self.high_freq_factor <= self.low_freq_factor:
            raise SpecError(
                f"high_freq_factor {self.high_freq_factor} must be above "
                f"low_freq_factor {self.low_freq_factor}",
                ("high_freq_factor",),
            )


@dataclass(frozen=True)
class YarnScaling:
    """NTK-by-parts, with attention scaled by 0.1 ln(factor) + 1.

    beta_fast, beta_slow: rotations over the original length between which the linear ramp runs.
    Source: Peng et al. 2023, YaRN, arXiv:2309.00071, eqs. 17 to 23.
    """

    factor: float
    original_max_seq_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "factor")
        check_size(self, "original_max_seq_len")
        check_positive(self, "beta_fast")
        check_positive(self, "beta_slow")
        if self.beta_fast <= self.beta_slow:
            raise SpecError(
                f"beta_fast {self.beta_fast} must be above beta_slow {self.beta_slow}",
                ("beta_fast",),
            )


Scaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions with half-split pairs, as in Llama.

    rotary_dim: how many leading elements of a head are rotated; None for all. Source: Su et al.
    2021, arXiv:2104.09864.
    """

    theta: float = 10_000.0
    scaling: Scaling | None = None
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "theta")
        check_size(self, "rotary_dim")
        if self.rotary_dim is not None and self.rotary_dim % 2:
            raise SpecError(f"rotary_dim must be even, got {self.rotary_dim}", ("rotary_dim",))


@dataclass(frozen=True)
class Learned:
    """A trained vector per position, added to the token embeddings.

    max_positions: how many; None for max_seq_len.
    """

    max_positions: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_size(self, "max_positions")


@dataclass(frozen=True)
class Alibi:
    """A bias of the scores that falls linearly with distance, with a slope per head.

    slopes: 'fixed', or 'learned' from the same initial values. Source: Press et al. 2021,
    arXiv:2108.12409.
    """

    slopes: str = "fixed"

    def __post_init__(self) -> None:
        check_types(self)
        check_choice(self, "slopes", SLOPES)


@dataclass(frozen=True)
class NoPositions:
    """No position encoding (NoPE)."""


Positions = Rope | Learned | Alibi | NoPositions


@dataclass(frozen=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * w, or * (1 + w) with unit_offset; weight: whether there is w.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.
    """

    eps: float = 1e-5
    unit_offset: bool = False
    weight: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "eps")
        if self.unit_offset and not self.weight:
            raise SpecError(
                "unit_offset adds 1 to a weight, which a norm with weight: false does not have",
                ("unit_offset",),
            )


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(var + eps) * w + b.

    weight: whether there is w; bias: whether there is b (None becomes true with w, false without).
    Source: Ba et al. 2016, arXiv:1607.06450.
    """

    eps: float = 1e-5
    bias: bool | None = None
    weight: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "eps")
        if self.bias is None:
            object.__setattr__(self, "bias", self.weight)
        elif self.bias and not self.weight:
            raise SpecError("a layernorm with weight: false has no bias; leave bias out", ("bias",))


@dataclass(frozen=True)
class NoNorm:
    """The identity."""

    weight: ClassVar[bool] = False


Norm = RMSNorm | LayerNorm | NoNorm
