"""How a run trains: every setting except the architecture and the machine.

A recipe is saved with every checkpoint. Together with the architecture and the data it determines
every number of a run. Settings that only affect where and how fast it runs (device, compilation,
sharding) are `hermes.interface.Options`. Imports nothing but errors and arguments.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from hermes.arguments import convert_fields
from hermes.errors import HermesError, suggest_nearest

__all__ = [
    "LORA_TARGETS",
    "MUON_SCALES",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PREFERENCES",
    "SCHEDULES",
    "Lora",
    "OptimizerRecipe",
    "ParameterGroup",
    "Preference",
    "Recipe",
]

OBJECTIVES = ("next-token", "preference")
SCHEDULES = ("constant", "cosine", "wsd")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFERENCES = ("sigmoid", "ipo", "hinge", "orpo", "simpo")
OPTIMIZERS = ("adamw", "muon", "normuon", "lion", "adafactor")
MUON_SCALES = ("match_rms_adamw", "original")
# Settings that only some optimizers have; the others are every optimizer's.
_ADAM = ("beta1", "beta2", "eps")
_OWN_SETTINGS = {
    "adamw": _ADAM,
    "muon": (*_ADAM, "momentum", "nesterov", "muon_scale"),
    "normuon": (*_ADAM, "momentum", "nesterov"),
    "lion": ("beta1", "beta2"),
    "adafactor": (),
}


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise HermesError(f"{name} must be {wanted}, got {value!r}")


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer; weight decay is decoupled and applies to matrices only.

    name: adamw, lion or adafactor for every tensor; muon or normuon for the matrices inside blocks,
    and adamw for the rest. beta1, beta2, eps: of adamw, eps outside the square root, with bias
    correction; beta1 and beta2 of lion, too; beta2 and eps of normuon's rows. momentum, nesterov:
    of muon and normuon. muon_scale: what an orthogonalized step is multiplied by, match_rms_adamw
    or original. Formulas and sources: specs/numerics.md.
    """

    name: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    muon_scale: str = "match_rms_adamw"

    def __post_init__(self) -> None:
        convert_fields(self, "optimizer.")
        _require(
            self.name in OPTIMIZERS, "optimizer.name", self.name, f"one of {', '.join(OPTIMIZERS)}"
        )
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name}", value, "at least 0 and below 1")
        _require(0 < self.eps < math.inf, "optimizer.eps", self.eps, "above 0")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        scales = f"one of {', '.join(MUON_SCALES)}"
        _require(self.muon_scale in MUON_SCALES, "optimizer.muon_scale", self.muon_scale, scales)
        own = _OWN_SETTINGS[self.name]
        for one in fields(self):
            if one.name in (*own, "name", "weight_decay") or getattr(self, one.name) == one.default:
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
                    "lr, lr_scale and weight_decay, as in lr=0.1,weight_decay=0"
                )
            _require(0 <= value < math.inf, f"{where}: {key}", text, "a number, at least 0")
            if key in found:
                raise HermesError(f"{where} has {key} twice; keep one")
            found[key] = value
        if {"lr", "lr_scale"} <= found.keys():
            raise HermesError(f"{where} has both lr and lr_scale; keep one")
        return cls(glob, **found)


@dataclass(frozen=True)
class Preference:
    """A preference loss over pairs of a chosen and a rejected completion.

    loss: sigmoid (DPO; cDPO with label_smoothing), ipo, hinge (SLiC), orpo or simpo. beta: how
    strongly the model is kept near the reference (orpo: weight of the odds ratio; simpo: scale of
    the margin). gamma: simpo's target margin. sft_weight: weight of the chosen completion's mean
    token loss, which is added. Formulas: specs/numerics.md.
    """

    loss: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.5
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        convert_fields(self)
        _require(self.loss in PREFERENCES, "loss", self.loss, f"one of {', '.join(PREFERENCES)}")
        _require(0 < self.beta < math.inf, "beta", self.beta, "above 0")
        smooth = self.label_smoothing
        _require(0 <= smooth < 0.5, "label_smoothing", smooth, "at least 0 and below 0.5")
        if smooth and self.loss != "sigmoid":
            raise HermesError(f"label_smoothing belongs to loss sigmoid, not to {self.loss}")
        _require(0 <= self.gamma < math.inf, "gamma", self.gamma, "at least 0")
        _require(0 <= self.sft_weight < math.inf, "sft_weight", self.sft_weight, "at least 0")

    @property
    def needs_reference(self) -> bool:
        """Whether the loss needs log-probabilities of a reference model."""
        return self.loss not in ("orpo", "simpo")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters: W x becomes W x + scale B A drop(x), and only A and B are trained.

    scale is alpha / rank, or with rslora alpha / sqrt(rank). targets: the last parts of the adapted
    matrices' names; gate_proj is the feed-forward's. dora: the sum is multiplied, row by row, by
    m / |W + scale B A|, of which m is trained, too. token_ids: tokens whose rows in the embeddings
    and the head are trained beside.
    Sources: Hu et al. 2021, arXiv:2106.09685, section 4; Kalajdzievski 2023, arXiv:2312.03732;
    Liu et al. 2024, arXiv:2402.09353, eq. 5.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = LORA_TARGETS
    rslora: bool = False
    dora: bool = False
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        convert_fields(self, "lora.")
        _require(self.rank >= 1, "lora.rank", self.rank, "at least 1")
        _require(0 < self.alpha < math.inf, "lora.alpha", self.alpha, "above 0")
        _require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "at least 0 and below 1")
        _require(bool(self.targets), "lora.targets", self.targets, "at least one name")
        for name in self.targets:
            _require(name in LORA_TARGETS, "lora.targets", name, f"of {', '.join(LORA_TARGETS)}")
        ascending = all(a < b for a, b in zip((-1, *self.token_ids), self.token_ids, strict=False))
        _require(ascending, "lora.token_ids", self.token_ids, "ascending ids, each once")

    @property
    def scale(self) -> float:
        """The factor of B A: alpha / rank, or alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    lr: peak learning rate. batch_size: sequences per micro-batch and rank. grad_accum:
    micro-batches per step. seq_len: tokens. warmup_steps, max_steps: steps (max_steps 0: as many as
    the epochs need). grad_clip: bound of the gradients' global norm (0: off). min_lr_ratio: final
    learning rate of cosine and wsd, as a fraction of lr. decay_ratio: fraction of the steps in
    which wsd decays. document_mask: attention and positions stay inside each document of a
    sequence. eval_every, save_every: steps (0: only at the end). freeze_layers, freeze: tensors
    that are not trained, see `hermes.numerics.params.list_unfrozen`. groups: globs of tensors'
    names, each with settings as `ParameterGroup.parse` reads them; of a tensor's globs the first
    holds. ema: decay of an average of the weights that is kept beside them (0: none).
    """

    objective: str = "next-token"
    lr: float = 3e-4
    batch_size: int = 32
    grad_accum: int = 1
    epochs: float = 1
    max_steps: int = 0
    seq_len: int = 256
    schedule: str = "constant"
    warmup_steps: int = 0
    min_lr_ratio: float = 0.1
    decay_ratio: float = 0.1
    grad_clip: float = 1.0
    seed: int = 0
    val_fraction: float = 0.0
    document_mask: bool = False
    eval_every: int = 0
    save_every: int = 1000
    freeze_layers: int = 0
    freeze: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    ema: float = 0.0
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    preference: Preference = field(default_factory=Preference)
    lora: Lora | None = None

    def __post_init__(self) -> None:
        convert_fields(self)
        choices = ", ".join
        _require(self.objective in OBJECTIVES, "objective", self.objective, choices(OBJECTIVES))
        _require(self.schedule in SCHEDULES, "schedule", self.schedule, choices(SCHEDULES))
        _require(0 < self.lr < math.inf, "lr", self.lr, "above 0")
        for name in ("batch_size", "grad_accum", "seq_len"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0 < self.epochs < math.inf, "epochs", self.epochs, "above 0")
        for name in ("max_steps", "warmup_steps", "eval_every", "save_every", "freeze_layers"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _require(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", self.min_lr_ratio, "from 0 to 1")
        _require(0 <= self.decay_ratio <= 1, "decay_ratio", self.decay_ratio, "from 0 to 1")
        _require(0 <= self.grad_clip < math.inf, "grad_clip", self.grad_clip, "at least 0")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "at least 0 and below 2^63")
        for name in ("freeze_layers", "freeze"):
            if self.lora is not None and getattr(self, name):
                raise HermesError(f"{name} has no meaning with lora, which freezes every layer")
        _require(0 <= self.val_fraction < 1, "val_fraction", self.val_fraction, "from 0 to below 1")
        _require(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")
        self.parse_groups()

    def parse_groups(self) -> tuple[ParameterGroup, ...]:
        """The groups in their order. Raises HermesError."""
        for group in self.groups:
            _require(len(group) == 2, "group", group, "a glob and settings such as lr=0.1")
        return tuple(ParameterGroup.parse(*group) for group in self.groups)


def flatten_recipe(recipe: Recipe) -> dict[str, object]:
    """Flatten a recipe to a dict by field name; nested fields are dotted: 'optimizer.beta2'."""
    found: dict[str, object] = {}
    for name, value in dataclasses.asdict(recipe).items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            found[name] = value
    return found


def replace_fields(recipe: Recipe, given: Mapping[str, object]) -> Recipe:
    """Replace fields of a recipe by their names in `flatten_recipe`. Raises HermesError."""
    known = {**flatten_recipe(recipe), **vars(recipe)}
    parts: dict[str, dict[str, object]] = {}
    own: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            raise HermesError(f"the recipe has no {name!r}{suggest_nearest(name, known)}")
        part, _, inner = name.rpartition(".")
        if part:
            parts.setdefault(part, {})[inner] = value
        else:
            own[name] = value
    for part, values in parts.items():
        own[part] = dataclasses.replace(getattr(recipe, part), **values)
    return dataclasses.replace(recipe, **own)  # type: ignore[arg-type]  # by name, checked above
