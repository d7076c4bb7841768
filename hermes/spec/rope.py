"""Rotary position encoding, and its scalings for contexts longer than in pre-training."""

from dataclasses import dataclass

from hermes.errors import SpecError
from hermes.spec.checks import check_positive, check_size, check_types


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
