"""Rotary position encoding, and its scalings for contexts longer than in pre-training."""

import math
from dataclasses import dataclass, replace

from hermes.errors import SpecError
from hermes.formatting import format_count
from hermes.spec.checks import check_factors, check_positive, check_size, check_types


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
    """NTK-by-parts, with cosines and sines multiplied by attention_factor.

    beta_fast, beta_slow: rotations over the original length between which the linear ramp runs,
    from pair to pair; truncate: whether the ramp's ends are whole pairs (false in gpt-oss).
    attention_factor: None for 0.1 ln(factor) + 1. Source: Peng et al. 2023, YaRN, arXiv:2309.00071,
    eqs. 17 to 23.
    """

    factor: float
    original_max_seq_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "factor")
        check_size(self, "original_max_seq_len")
        check_positive(self, "beta_fast")
        check_positive(self, "beta_slow")
        check_positive(self, "attention_factor")
        if self.beta_fast <= self.beta_slow:
            raise SpecError(
                f"beta_fast {self.beta_fast} must be above beta_slow {self.beta_slow}",
                ("beta_fast",),
            )

    @property
    def magnitude(self) -> float:
        """The factor of cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 1.0 if self.factor <= 1 else 0.1 * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class LongRopeScaling:
    """Each pair's frequency divided by a factor of its own, from one of two lists.

    short_factor, long_factor: a factor per pair, R / 2 in each. A row or a KV cache of at most
    original_max_seq_len tokens uses the short list, a longer one the long list. attention_factor:
    of cosines and sines in both; None for sqrt(1 + ln(max_seq_len / original) / ln(original)), or 1
    if max_seq_len is not longer. Source: Ding et al. 2024, LongRoPE, arXiv:2402.13753; Abdin et
    al. 2024, Phi-3, arXiv:2404.14219.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_seq_len: int
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_factors(self, "short_factor")
        check_factors(self, "long_factor")
        if len(self.short_factor) != len(self.long_factor):
            raise SpecError(
                f"long_factor has {format_count(len(self.long_factor), 'numbers')} and "
                f"short_factor {len(self.short_factor)}; both have one for each pair",
                ("long_factor",),
            )
        check_size(self, "original_max_seq_len")
        if self.original_max_seq_len == 1:
            raise SpecError("original_max_seq_len must be above 1", ("original_max_seq_len",))
        check_positive(self, "attention_factor")

    def resolve(self, max_seq_len: int) -> "LongRopeScaling":
        """Fill in attention_factor for a model of this max_seq_len."""
        if self.attention_factor is not None:
            return self
        longer = max(max_seq_len / self.original_max_seq_len, 1.0)
        magnitude = math.sqrt(1 + math.log(longer) / math.log(self.original_max_seq_len))
        return replace(self, attention_factor=magnitude)


@dataclass(frozen=True)
class DynamicScaling:
    """Theta that grows with the length n of a row or a KV cache beyond the original one.

    theta (1 + factor (n / original_max_seq_len - 1))^(R / (R - 2)) for n > original_max_seq_len.
    Source: "dynamic NTK", emozilla 2023; Peng et al. 2023, arXiv:2309.00071, section 3.3.
    """

    factor: float
    original_max_seq_len: int

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "factor")
        check_size(self, "original_max_seq_len")


Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling | DynamicScaling


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

    def check_rotated(self, size: int) -> None:
        """Refuse a scaling that does not fit `size` rotated elements of a head."""
        match self.scaling:
            case LongRopeScaling(short) if 2 * len(short) != size:
                raise SpecError(
                    f"short_factor and long_factor have {format_count(len(short), 'numbers')}; "
                    f"{size} rotated elements of a head make {format_count(size // 2, 'pairs')}",
                    ("scaling", "short_factor"),
                )
            case DynamicScaling() if size == 2:
                raise SpecError(
                    "dynamic scaling needs more than one pair of a head to rotate",
                    ("scaling",),
                )
