"""Settings of the optimizer, of groups of tensors, and of loss scaling.

Imports nothing but errors and arguments.
"""

import math
from dataclasses import dataclass, fields

from hermes.arguments import convert_fields
from hermes.errors import HermesError, suggest_nearest

__all__ = [
    "MOMENT_TYPES",
    "MUON_SCALES",
    "OPTIMIZERS",
    "LossScaling",
    "OptimizerRecipe",
    "ParameterGroup",
    "has_meaning",
    "require",
]

OPTIMIZERS = ("adamw", "muon", "normuon", "lion", "adafactor")
MUON_SCALES = ("match_rms_adamw", "original")
STOCHASTIC = "bfloat16-stochastic"
BFLOAT16_MOMENTS = ("bfloat16", STOCHASTIC)
MOMENT_TYPES = ("float32", *BFLOAT16_MOMENTS, "float8")
# With 8 bits, a number rounds to itself where less than 2^-9 of it is added. A step adds 1 - beta2
# of how far the square of the gradient is from the moment, so at 0.99 this is lost only within a
# fifth of it, and at 0.999 the moment would never fall. With float8 nothing is lost on average, but
# what a step rounds at random stays for 1 / (1 - beta2) steps. So it is with stochastic rounding to
# bfloat16, whose steps are 16 times as fine: at 0.999 a moment is off by 4 % of itself.
MOST_BETA2 = {"bfloat16": 0.99, STOCHASTIC: 0.999, "float8": 0.99}
# Settings that only some optimizers have; the others are every optimizer's.
_ADAM = ("beta1", "beta2", "eps")
_OWN_SETTINGS = {
    "adamw": _ADAM,
    "muon": (*_ADAM, "momentum", "nesterov", "muon_scale"),
    "normuon": (*_ADAM, "momentum", "nesterov"),
    "lion": ("beta1", "beta2"),
    "adafactor": (),
}


def has_meaning(setting: str, optimizer: str) -> bool:
    """Whether an optimizer has a setting of OptimizerRecipe."""
    return setting in (*_OWN_SETTINGS[optimizer], "name", "weight_decay", "moments")


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Refuse a setting of another value than is wanted. Raises HermesError."""
    if not holds:
        raise HermesError(f"{name} must be {wanted}, got {value!r}")


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer; weight decay is decoupled and applies to matrices only.

    name: adamw, lion or adafactor for every tensor; muon or normuon for the matrices inside blocks,
    and adamw for the rest. beta1, beta2, eps: of adamw, eps outside the square root, with bias
    correction; beta1 and beta2 of lion, too; beta2 and eps of normuon's rows. momentum, nesterov:
    of muon and normuon. muon_scale: what an orthogonalized step is multiplied by, match_rms_adamw
    or original. moments: the type in which exp_avg and exp_avg_sq are kept, float32 (float64 under
    precision float64), bfloat16, bfloat16-stochastic or float8. Formulas and sources:
    specs/numerics.md.
    """

    name: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    muon_scale: str = "match_rms_adamw"
    moments: str = "float32"

    def __post_init__(self) -> None:
        convert_fields(self, "optimizer.")
        require(
            self.name in OPTIMIZERS, "optimizer.name", self.name, f"one of {', '.join(OPTIMIZERS)}"
        )
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optimizer.{name}", value, "at least 0 and below 1")
        require(0 < self.eps < math.inf, "optimizer.eps", self.eps, "above 0")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        scales = f"one of {', '.join(MUON_SCALES)}"
        require(self.muon_scale in MUON_SCALES, "optimizer.muon_scale", self.muon_scale, scales)
        types = f"one of {', '.join(MOMENT_TYPES)}"
        require(self.moments in MOMENT_TYPES, "optimizer.moments", self.moments, types)
        uses_beta2 = self.name != "adafactor"
        most = MOST_BETA2.get(self.moments, 1.0)
        if uses_beta2 and self.beta2 > most:
            lost = (
                "would lose what a step adds to it"
                if self.moments == "bfloat16"
                else "would gather the rounding of many steps"
            )
            other = (
                f" {STOCHASTIC} or" if self.moments != STOCHASTIC and self.beta2 <= 0.999 else ""
            )
            raise HermesError(
                f"optimizer.beta2 is {self.beta2:g}: a moment in {self.moments} {lost}; choose at "
                f"most {most:g}, or{other} float32 moments"
            )
        for one in fields(self):
            if has_meaning(one.name, self.name) or getattr(self, one.name) == one.default:
                continue
            raise HermesError(
                f"optimizer.{one.name} has no meaning with {self.name}; leave it out, or choose "
                "another optimizer"
            )


@dataclass(frozen=True)
class ParameterGroup:
    """Settings of the tensors whose names match a glob (*, ? and [] as in file names).

    lr: their peak learning rate; lr_scale: that as a multiple of the run's. weight_decay: that of
    the matrices among them. None: the run's.
    """

    glob: str
    lr: float | None = None
    lr_scale: float | None = None
    weight_decay: float | None = None

    @classmethod
    def parse(cls, glob: str, settings: str) -> "ParameterGroup":
        """Read settings such as 'lr=0.1,weight_decay=0'. Raises HermesError."""
        where, known = f"group {glob!r}", ("lr", "lr_scale", "weight_decay")
        found: dict[str, float] = {}
        for item in settings.split(","):
            key, _, text = (part.strip() for part in item.partition("="))
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if key not in known:
                raise HermesError(
                    f"{where} has no setting {key!r}{suggest_nearest(key, known)}; it takes "
                    "'lr', 'lr_scale' and 'weight_decay', as in 'lr=0.1,weight_decay=0'"
                )
            require(0 <= value < math.inf, f"{where}: {key}", text, "a number, at least 0")
            if key in found:
                raise HermesError(f"{where} has {key} twice; keep one")
            found[key] = value
        if {"lr", "lr_scale"} <= found.keys():
            raise HermesError(f"{where} has both lr and lr_scale; keep one")
        return cls(glob, **found)


@dataclass(frozen=True)
class LossScaling:
    """How the loss is scaled under precision float16, so that gradients do not vanish in it.

    initial: the scale that a run begins with. growth: what the scale is multiplied by after
    `interval` steps in a row whose gradients are finite. backoff: what it is multiplied by after a
    step whose gradients are not, which is left out. minimum: the least scale. The defaults are
    those of torch.amp.GradScaler, but for the minimum, which that does not have.
    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    initial: float = 65536.0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000
    minimum: float = 1.0

    def __post_init__(self) -> None:
        convert_fields(self, "loss_scaling.")
        require(self.interval >= 1, "loss_scaling.interval", self.interval, "at least 1")
        for name, holds, wanted in (
            ("minimum", 0 < self.minimum < math.inf, "above 0"),
            ("growth", 1 < self.growth < math.inf, "above 1"),
            ("backoff", 0 < self.backoff < 1, "above 0 and below 1"),
        ):
            require(holds, f"loss_scaling.{name}", getattr(self, name), wanted)
        is_scale = self.minimum <= self.initial < 2.0**127
        require(is_scale, "loss_scale", self.initial, "from the minimum to 2^127")  # an option
