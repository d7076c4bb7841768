"""The small parts of a block: position encodings and norms."""

from dataclasses import dataclass
from typing import ClassVar

from hermes.errors import SpecError
from hermes.spec.checks import check_choice, check_positive, check_size, check_types
from hermes.spec.rope import Rope

SLOPES = ("fixed", "learned")


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

    slopes: 'fixed', or 'learned' from the same initial values. scale: factor of the slopes (None:
    1); Falcon's is 1 / sqrt(D). Source: Press et al. 2021, arXiv:2108.12409.
    """

    slopes: str = "fixed"
    scale: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_choice(self, "slopes", SLOPES)
        check_positive(self, "scale")

    @property
    def learned(self) -> bool:
        """Whether the slopes are trained."""
        return self.slopes == "learned"


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
        _check_offset(self)


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean) / sqrt(var + eps) * w + b, or * (1 + w) with unit_offset.

    weight: whether there is w; bias: whether there is b (None becomes true with w, false without).
    Source: Ba et al. 2016, arXiv:1607.06450.
    """

    eps: float = 1e-5
    bias: bool | None = None
    weight: bool = True
    unit_offset: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "eps")
        if self.bias is None:
            object.__setattr__(self, "bias", self.weight)
        elif self.bias and not self.weight:
            raise SpecError("a layernorm with weight: false has no bias; leave bias out", ("bias",))
        _check_offset(self)


def _check_offset(norm: RMSNorm | LayerNorm) -> None:
    if norm.unit_offset and not norm.weight:
        raise SpecError(
            "unit_offset adds 1 to a weight, which a norm with weight: false does not have",
            ("unit_offset",),
        )


@dataclass(frozen=True)
class NoNorm:
    """The identity."""

    weight: ClassVar[bool] = False


Norm = RMSNorm | LayerNorm | NoNorm
