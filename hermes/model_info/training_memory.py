"""How much memory training takes: what is held throughout, and the worst moment of a step.

A step is walked through as the backends do it: the loss with all activations there, the backward
pass layer by layer, the update. The largest of these moments is the plan. Letters: activations.py.
"""

import dataclasses
from dataclasses import dataclass

from hermes.backend_options import Options
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.model_info.activations import BYTES_OF, LayerBytes, count_layer_bytes
from hermes.model_info.attention_activations import is_unfused
from hermes.model_info.layer_shape import BITS, LayerTraining, Shape, count_norm_bytes
from hermes.model_info.mlx_update_memory import count_mlx_update_bytes
from hermes.model_info.update_memory import Updates, count_update_bytes
from hermes.numerics.chunking import count_chunk_tokens
from hermes.numerics.frozen import list_frozen_matrices
from hermes.numerics.lora import list_adapter_tensors, list_trainable
from hermes.numerics.params import find_head, list_parameters
from hermes.numerics.update_rules import choose_update_rules, count_state_bytes
from hermes.recipe import Recipe
from hermes.spec import ModelSpec

__all__ = [
    "MemoryPlan",
    "Placement",
    "count_unfused_layers",
    "describe_training",
    "find_largest_batch",
    "plan_memory",
]

# Logits that exist at a time: CHUNK_LOGITS of the backends, on CPUs and on other devices.
CHUNKS = {"torch": (1 << 23, 1 << 28), "mlx": (1 << 23, 1 << 27)}
LARGEST_BATCH = 1 << 20

MLX_UPDATED = 0.92  # of weights and optimizer state: what of them a compiled update makes anew


@dataclass(frozen=True)
class Placement:
    """What computes a run, and among how many processes its tensors are split.

    device: 'cpu', or what else. shard, grad_checkpoint, selective_checkpoint, compile: as
    hermes.interface.Options has them. Raises HermesError for what no run can have.
    """

    backend: str = "torch"
    device: str = "cpu"
    precision: str = "float32"
    grad_checkpoint: bool = False
    processes: int = 1
    shard: str | None = None
    shard_group: int | None = None
    selective_checkpoint: bool = False
    compile: bool | None = None

    def __post_init__(self) -> None:
        Options(
            precision=self.precision,
            grad_checkpoint=self.grad_checkpoint,
            selective_checkpoint=self.selective_checkpoint,
            shard=self.shard,
            shard_group=self.shard_group,
        )
        if self.backend == "mlx":
            self._check_mlx()
        elif self.shard:
            self._check_shard()

    def _check_shard(self) -> None:
        if self.processes == 1:
            raise HermesError(
                f"shard {self.shard!r} splits a model over several processes, and the plan is for "
                "one; give --num-processes, or leave --shard out"
            )
        group = self.shard_group or self.processes
        if self.processes % group or group < 2 or self.shard_group == 0:
            raise HermesError(
                f"shard_group is {self.shard_group}; it must be at least 2 and divide the "
                f"{format_count(self.processes, 'processes')}"
            )

    def _check_mlx(self) -> None:
        if self.selective_checkpoint:
            raise HermesError(
                "mlx recomputes whole blocks, without selective_checkpoint; choose "
                "grad_checkpoint, or backend torch"
            )
        if self.shard:
            raise HermesError(
                "mlx holds the model whole in every process; leave --shard out, or choose backend "
                "torch"
            )
        if self.precision == "float64" and self.device != "cpu":
            raise HermesError("mlx computes in float64 on CPUs alone; choose another precision")

    @property
    def copies(self) -> int:
        """Among how many processes one copy of the model is split."""
        return min(self.shard_group or self.processes, self.processes) if self.shard else 1


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one process at the peak of a step, by what holds them; they add up to the total.

    weights: master weights. optimizer: its state. update: what updating weights makes anew. moment:
    of the step, 'loss', 'backward' or 'update'.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    logits: int
    update: int
    moment: str

    @property
    def total(self) -> int:
        """All of it."""
        held = self.weights + self.optimizer + self.gradients
        return held + self.activations + self.logits + self.update


def plan_memory(spec: ModelSpec, recipe: Recipe, placement: Placement) -> MemoryPlan:
    """Plan the memory of one process at the peak of a training step. Raises HermesError."""
    return _Step(spec, recipe, placement, _make_shape(recipe, placement)).find_peak()


def count_unfused_layers(spec: ModelSpec, recipe: Recipe, placement: Placement) -> int:
    """Count the layers whose attention keeps a tensor of every query and key of a sequence."""
    shape = _make_shape(recipe, placement)
    return sum(is_unfused(one, shape) for one in spec.attentions)


def _make_shape(recipe: Recipe, placement: Placement) -> Shape:
    master = 8 if placement.precision == "float64" else 4
    return Shape(
        recipe.batch_size * (2 if recipe.objective == "preference" else 1),
        recipe.seq_len,
        placement.backend,
        placement.device,
        BYTES_OF[placement.precision],
        master,
        recipe.document_mask,
        recipe.objective != "preference",
        has_kernels=placement.backend == "torch" and placement.device.startswith("cuda"),
        has_flex=placement.compile is not False,
    )


class _Step:
    """The sizes of one step."""

    def __init__(self, spec: ModelSpec, recipe: Recipe, placement: Placement, shape: Shape):
        self.placement, self.shape, self.master = placement, shape, shape.master
        table = dict(list_parameters(spec))
        if recipe.lora:
            table |= list_adapter_tensors(spec, recipe.lora)
        trained = set(list_trainable(spec, recipe))
        self.accumulates = recipe.grad_accum > 1
        self.state = count_state_bytes(spec, recipe, self.master)
        if placement.backend == "mlx" and placement.device == "cpu":
            self.updating = count_mlx_update_bytes(spec, recipe, table, self.master)
        else:
            split = placement.copies
            updates = Updates(
                recipe.optimizer.moments, recipe.ema > 0, self.master, split, placement.device
            )
            self.updating = count_update_bytes(table, choose_update_rules(spec, recipe), updates)
        self.all_weights = sum(tensor.size for tensor in table.values())
        self.trained = sum(table[name].size for name in trained)
        self.layer_weights = [0] * spec.num_layers
        for name in trained:
            parts = name.split(".")
            if "layers" in parts:
                self.layer_weights[int(parts[parts.index("layers") + 1])] += table[name].size
        self.vocabulary = spec.vocab_size * spec.hidden_size
        tied = spec.embeddings.tie_weights
        embeds = "model.embed_tokens.weight" in trained
        self.trains_head = find_head(spec) in trained
        self.trains_embeddings = embeds
        self.tied = tied and embeds
        layers = [
            count_layer_bytes(
                block, spec.hidden_size, shape, describe_training(trained, index, recipe)
            )
            for index, block in enumerate(spec.layers)
        ]
        # Frozen matrices are in the type of products alone: half the weights, and no copy.
        short = _list_held_short(spec, recipe, placement.precision)
        self.saved = (self.master - shape.activation) * sum(table[name].size for name in short)
        self.casts_head = find_head(spec) not in short
        for index, layer in enumerate(layers):
            copied = sum(table[n].size for n in short if n.startswith(f"model.layers.{index}."))
            kept = layer.kept - shape.activation * copied
            layers[index] = dataclasses.replace(layer, kept=kept)
        # Nothing below the first layer with a trained tensor has a gradient, so nothing is kept.
        first = 0 if embeds else next((i for i, n in enumerate(self.layer_weights) if n), 0)
        self.layers = [LayerBytes(0, 0, 0)] * first + layers[first:]
        self.hidden = shape.tokens * spec.hidden_size
        self.final = self.hidden * shape.activation
        self.final += shape.tokens * count_norm_bytes(
            spec.final_norm, spec.hidden_size, shape, trained="model.norm.weight" in trained
        )
        logits = CHUNKS[placement.backend][placement.device != "cpu"]
        hidden = spec.hidden_size if shape.is_torch else 0
        self.rows = min(shape.tokens, count_chunk_tokens(spec.vocab_size, logits, hidden))
        self.logits = self._count_logits(spec)

    def _count_logits(self, spec: ModelSpec) -> int:
        """The buffers of the loss: logits, their log-softmax and gradient, and temporaries."""
        if not self.shape.is_torch:
            return self._count_mlx_logits(spec)
        a, n, V = self.shape.activation, self.rows, spec.vocab_size
        own = n * V * 2 * self.master  # logits, and log-softmax that becomes their gradient
        several = n < self.shape.tokens
        # The first chunk's product is the head's gradient; those of others are added within.
        product = a * n * spec.hidden_size
        if a < self.master:
            own += a * (
                n * V + self.vocabulary * self.casts_head
            )  # the gradient and the head in that type
            # The head's gradient in that type, and of later chunks widened to be added up.
            head = (a + several * self.master) * self.vocabulary * self.trains_head
            product = max(product, head)
        if several:
            own += n * V * 2 * self.master  # those of the chunk before, until they are replaced
            own += n * V * a * (a < self.master)
        return own + product

    def _count_mlx_logits(self, spec: ModelSpec) -> int:
        """The same of MLX, eager: it makes all of a chunk's arrays before it lets go of one.

        Of a chunk that are logits, where the target is (a mask, and its -1), softmax, their sum,
        and that sum where a target counts. In a shorter type logits and gradient are there in both.
        Of the chunk before three or four are left, as ten operations run ahead. Of the head: zeros,
        or the sum so far, and what a chunk adds; in a shorter type that in both, and the head.
        """
        a, wide, V = self.shape.activation, self.master, spec.vocab_size
        short = a < wide
        each = V * (5 * wide + BITS + 2 * a * short)
        second = min(self.rows, self.shape.tokens - self.rows)  # tokens of the chunk after one
        before = 4 * wide * V * self.rows * (second > 0)
        own = max(each * self.rows, each * second + before)
        head = (2 * wide + a * short) * self.trains_head + a * self.casts_head * short
        return own + head * self.vocabulary

    def find_peak(self) -> MemoryPlan:
        """The moment of the step that takes the most."""
        master, trained = self.master, self.trained
        split, whole = self.placement.copies, self.placement.shard == "full"
        weights = master * self.all_weights - self.saved
        moments = self.state
        if self.placement.shard:
            weights //= split
            moments //= split
        if self.placement.shard == "optimizer":
            weights += self.shape.activation * self.all_weights
        gathered = 2 * self.shape.activation * max(self.layer_weights, default=0) if whole else 0
        share = split if whole else 1
        held = master * trained // share  # all gradients

        def make(
            moment: str, gradients: int, activations: int = 0, logits: int = 0, update: int = 0
        ) -> MemoryPlan:
            held = weights, moments, gradients, activations + gathered
            return MemoryPlan(*held, logits, update, moment)

        kept = [one.kept for one in self.layers]
        kept_at_loss = kept
        if self.placement.grad_checkpoint:
            kept_at_loss = kept = [one.entry for one in self.layers]
        if self.placement.selective_checkpoint:
            kept_at_loss = kept = [one.entry + one.products for one in self.layers]
        head = master * self.vocabulary if self.trains_head else 0
        before = held if self.accumulates else 0
        dx = self.hidden * self.shape.activation
        live = sum(kept_at_loss) + self.final + dx
        found = [make("loss", before + head, live, self.logits)]
        above = head // share
        for index in reversed(range(len(self.layers))):
            own = self.layers[index]
            live = sum(kept[:index]) + own.kept + own.working + own.gradient
            gradients = max(before, above) if self.accumulates else above
            found.append(make("backward", gradients, live))
            above += master * self.layer_weights[index] // share
        # The embeddings' gradient at the end is new: beside the head's where both are one tensor,
        # and beside the sum of micro-batches so far.
        embedding = 0
        if self.trains_embeddings:
            embedding = master * self.vocabulary * (self.tied + self.accumulates)
        found.append(make("backward", held + embedding, dx))
        # torch updates in place, tensor by tensor; MLX makes weights and moments anew, on a GPU in
        # compiled kernels.
        anew = self.updating
        if not self.shape.is_torch and self.placement.device != "cpu":
            anew = int(MLX_UPDATED * (held + self.state))
        found.append(make("update", held, update=anew))
        return max(found, key=lambda one: one.total)


def describe_training(trained: set[str], index: int, recipe: Recipe) -> LayerTraining:
    """What is trained of a layer."""
    own = [name.split(".") for name in trained if name.startswith(f"model.layers.{index}.")]
    matrices = {parts[-2] for parts in own if parts[-1] == "weight" and "_proj" in parts[-2]}
    norms = any("norm" in parts[-2] for parts in own)
    return LayerTraining(frozenset(matrices), norms, recipe.lora)


def _list_held_short(spec: ModelSpec, recipe: Recipe, precision: str) -> tuple[str, ...]:
    """List the frozen matrices that are held in bfloat16: not those whose rows DoRA measures."""
    frozen = list_frozen_matrices(spec, recipe) if precision == "bfloat16" else ()
    measures = recipe.lora is not None and recipe.lora.dora
    return tuple(name for name in frozen if not (measures and ".layers." in name))


def find_largest_batch(spec: ModelSpec, recipe: Recipe, placement: Placement, free: int) -> int:
    """Find the largest batch_size that fits into `free` bytes; 0 where not even 1 does."""

    def fits(size: int) -> bool:
        one = dataclasses.replace(recipe, batch_size=size)
        return plan_memory(spec, one, placement).total <= free

    low, high = 0, 1
    while high <= LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
