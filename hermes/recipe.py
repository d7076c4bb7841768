"""How a run trains: every setting except the architecture and the machine.

A recipe is saved with every checkpoint. Together with the architecture and the data it determines
every number of a run. Settings that only affect where and how fast it runs (device, compilation,
sharding) are `hermes.interface.Options`. Imports nothing but errors and arguments.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hermes.arguments import convert_fields
from hermes.errors import HermesError, suggest_nearest
from hermes.optimizer_recipe import (
    MOMENT_TYPES,
    MUON_SCALES,
    OPTIMIZERS,
    LossScaling,
    OptimizerRecipe,
    ParameterGroup,
    require,
)
from hermes.size_schedule import find_size, parse_size_schedule

__all__ = [
    "DECAY_SHAPES",
    "LORA_TARGETS",
    "MOMENT_TYPES",
    "MUON_SCALES",
    "OBJECTIVES",
    "OPTIMIZERS",
    "PREFERENCES",
    "SCHEDULES",
    "Lora",
    "LossScaling",
    "OptimizerRecipe",
    "ParameterGroup",
    "Preference",
    "Recipe",
    "flatten_recipe",
    "replace_fields",
]

OBJECTIVES = ("next-token", "preference")
SCHEDULES = ("constant", "linear", "cosine", "polynomial", "wsd", "points")
DECAY_SHAPES = ("linear", "1-sqrt")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFERENCES = ("sigmoid", "ipo", "hinge", "orpo", "simpo")


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
        require(self.loss in PREFERENCES, "loss", self.loss, f"one of {', '.join(PREFERENCES)}")
        require(0 < self.beta < math.inf, "beta", self.beta, "above 0")
        smooth = self.label_smoothing
        require(0 <= smooth < 0.5, "label_smoothing", smooth, "at least 0 and below 0.5")
        if smooth and self.loss != "sigmoid":
            raise HermesError(f"label_smoothing belongs to loss sigmoid, not to {self.loss}")
        require(0 <= self.gamma < math.inf, "gamma", self.gamma, "at least 0")
        require(0 <= self.sft_weight < math.inf, "sft_weight", self.sft_weight, "at least 0")

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
        require(self.rank >= 1, "lora.rank", self.rank, "at least 1")
        require(0 < self.alpha < math.inf, "lora.alpha", self.alpha, "above 0")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "at least 0 and below 1")
        require(bool(self.targets), "lora.targets", self.targets, "at least one name")
        for name in self.targets:
            require(name in LORA_TARGETS, "lora.targets", name, f"of {', '.join(LORA_TARGETS)}")
        ascending = all(a < b for a, b in zip((-1, *self.token_ids), self.token_ids, strict=False))
        require(ascending, "lora.token_ids", self.token_ids, "ascending ids, each once")

    @property
    def scale(self) -> float:
        """The factor of B A: alpha / rank, or alpha / sqrt(rank)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class Recipe:
    """The settings of a run.

    lr: peak learning rate. batch_size: sequences per micro-batch and rank. grad_accum:
    micro-batches per step. seq_len: tokens. batch_size_schedule, seq_len_schedule: sizes from steps
    on, such as '0:8,1000:16'; a batch from step 0 on replaces batch_size, and lengths divide
    seq_len, as sequences are split into shorter ones. warmup_steps, max_steps: steps (max_steps 0:
    as many as the epochs need). train_tokens: the run's length in tokens, each sample counted as
    seq_len of them (0: by steps or epochs). grad_clip: bound of the gradients' global norm (0:
    off).
    warmup_ratio: warm-up as a fraction of the run, in place of warmup_steps. min_lr_ratio: final
    learning rate of every schedule that falls, as a fraction of lr. decay_ratio, decay_steps:
    fraction of the steps in which wsd decays, or their number; decay_shape: linear or 1-sqrt.
    power: of polynomial. lr_points: of points, each a step or a percentage of the run and a factor
    of lr. z_loss: weight of the square of each target's log-sum-exp in the loss (0: off).
    document_mask: attention and positions stay inside each document of a sequence. eval_every,
    save_every: steps (0: only at the end). freeze_layers, freeze: tensors that are not trained, see
    `hermes.numerics.params.list_unfrozen`. groups: globs of tensors' names, each with settings as
    `ParameterGroup.parse` reads them; of a tensor's globs the first holds. ema: decay of an average
    of the weights that is kept beside them (0: none). loss_scaling: of precision float16 alone.
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
    train_tokens: int = 0
    warmup_ratio: float = 0.0
    decay_steps: int = 0
    decay_shape: str = "linear"
    power: float = 2.0
    lr_points: tuple[tuple[str, ...], ...] = ()
    z_loss: float = 0.0
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
    batch_size_schedule: str = ""
    seq_len_schedule: str = ""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    preference: Preference = field(default_factory=Preference)
    lora: Lora | None = None
    loss_scaling: LossScaling = field(default_factory=LossScaling)

    def __post_init__(self) -> None:
        convert_fields(self)
        for name, known in (
            ("objective", OBJECTIVES),
            ("schedule", SCHEDULES),
            ("decay_shape", DECAY_SHAPES),
        ):
            value = getattr(self, name)
            require(value in known, name, value, f"one of {', '.join(known)}")
        require(0 < self.lr < math.inf, "lr", self.lr, "above 0")
        for name in ("batch_size", "grad_accum", "seq_len"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(0 < self.epochs < math.inf, "epochs", self.epochs, "above 0")
        counts = ("max_steps", "train_tokens", "warmup_steps", "decay_steps")
        for name in (*counts, "eval_every", "save_every", "freeze_layers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", self.min_lr_ratio, "from 0 to 1")
        require(0 <= self.decay_ratio <= 1, "decay_ratio", self.decay_ratio, "from 0 to 1")
        require(0 <= self.warmup_ratio <= 1, "warmup_ratio", self.warmup_ratio, "from 0 to 1")
        require(0 < self.power < math.inf, "power", self.power, "above 0")
        require(0 <= self.z_loss < math.inf, "z_loss", self.z_loss, "at least 0")
        require(0 <= self.grad_clip < math.inf, "grad_clip", self.grad_clip, "at least 0")
        require(0 <= self.seed < 2**63, "seed", self.seed, "at least 0 and below 2^63")
        for name in ("freeze_layers", "freeze"):
            if self.lora is not None and getattr(self, name):
                raise HermesError(f"{name} has no meaning with lora, which freezes every layer")
        require(0 <= self.val_fraction < 1, "val_fraction", self.val_fraction, "from 0 to below 1")
        require(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")
        self._check_schedule()
        self._check_sizes()
        self.parse_groups()

    def _check_schedule(self) -> None:
        """Refuse settings that contradict each other, or that the schedule does not have."""
        if self.max_steps and self.train_tokens:
            raise HermesError("max_steps and train_tokens are both given; keep one")
        if self.warmup_steps and self.warmup_ratio:
            raise HermesError("warmup_steps and warmup_ratio are both given; keep one")
        if self.z_loss and self.objective == "preference":
            raise HermesError("z_loss has no meaning in a preference loss; leave it out")
        for name, default, schedule in (
            ("decay_steps", 0, "wsd"),
            ("decay_shape", "linear", "wsd"),
            ("power", 2.0, "polynomial"),
            ("lr_points", (), "points"),
        ):
            if getattr(self, name) != default and self.schedule != schedule:
                raise HermesError(f"{name} belongs to schedule {schedule}, not to {self.schedule}")
        if self.schedule == "points" and not self.lr_points:
            raise HermesError("schedule points needs at least one of lr_points")
        self.parse_lr_points(1)

    def _check_sizes(self) -> None:
        """Take the first size of a schedule; refuse lengths that do not divide sequences."""
        changes = parse_size_schedule("batch_size_schedule", self.batch_size_schedule)
        object.__setattr__(self, "batch_size", find_size(changes, 0, self.batch_size))
        lengths = parse_size_schedule("seq_len_schedule", self.seq_len_schedule)
        if lengths and self.objective == "preference":
            raise HermesError("seq_len_schedule has no meaning for pairs; leave it out")
        for _, length in lengths:
            if self.seq_len % length:
                raise HermesError(
                    f"seq_len_schedule has {length}, which does not divide seq_len {self.seq_len}: "
                    "a sequence is split into shorter ones of one length"
                )

    @property
    def sample_tokens(self) -> int:
        """The most tokens of a sample: a sequence, or both completions of a pair."""
        return self.seq_len * (2 if self.objective == "preference" else 1)

    def list_batch_sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes of micro-batches as (steps done before, size), from step 0 on."""
        changes = parse_size_schedule("batch_size_schedule", self.batch_size_schedule)
        return changes if changes and changes[0][0] == 0 else ((0, self.batch_size), *changes)

    def find_batch_size(self, step: int) -> int:
        """Sequences per micro-batch and rank in the step that follows `step` steps."""
        return find_size(self.list_batch_sizes(), step, self.batch_size)

    def find_seq_len(self, step: int) -> int:
        """Tokens of a sequence in the step that follows `step` steps."""
        changes = parse_size_schedule("seq_len_schedule", self.seq_len_schedule)
        return find_size(changes, step, self.seq_len)

    def use_largest_batch(self) -> "Recipe":
        """The recipe whose every step has the largest batch of this one's."""
        largest = max(size for _, size in self.list_batch_sizes())
        return dataclasses.replace(self, batch_size=largest, batch_size_schedule="")

    def parse_lr_points(self, total_steps: int) -> tuple[tuple[float, float], ...]:
        """The points of the learning rate as (step, factor) in a run of so many steps, in order.

        Those of one place stay in the order in which they are given. Raises HermesError.
        """
        found = []
        for point in self.lr_points:
            require(len(point) == 2, "lr_point", point, "a step or percentage, and a factor of lr")
            try:
                at, factor = (float(text.removesuffix("%")) for text in point)
            except ValueError:
                at = factor = math.nan
            known = 0 <= at < math.inf and 0 <= factor < math.inf and not point[1].endswith("%")
            require(known, "lr_point", " ".join(point), "a step or percentage, and a factor of lr")
            found.append((at * total_steps / 100 if point[0].endswith("%") else at, factor))
        return tuple(sorted(found, key=lambda point: point[0]))

    def parse_groups(self) -> tuple[ParameterGroup, ...]:
        """The groups in their order. Raises HermesError."""
        for group in self.groups:
            require(len(group) == 2, "group", group, "a glob and settings such as lr=0.1")
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
