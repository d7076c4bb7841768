"""Floating-point operations of training steps: of what a recipe trains, at a batch's documents."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hermes.interface import Batch
from hermes.model_info.cost import count_keys_of_sequence
from hermes.numerics.lora import list_adapter_tensors, list_trainable
from hermes.numerics.merging import DOWN, UP
from hermes.numerics.params import Tensor, find_head, list_parameters
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, ModelSpec

__all__ = ["StepFlops", "make_step_flops"]

# The parts of a layer in the order of the forward pass; those of one stage have the same input.
_STAGES = {
    "norms": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
              "post_feedforward_layernorm"),
    "projecting": ("self_attn.q_", "self_attn.k_", "self_attn.v_", "self_attn.gate_",
                   "self_attn.sinks", "self_attn.alibi_"),
    "mixing": ("self_attn.o_proj",),
    "widening": ("mlp.gate_proj", "mlp.up_proj"),
    "narrowing": ("mlp.down_proj",),
}  # fmt: skip


@dataclass(frozen=True)
class StepFlops:
    """Counts the floating-point operations of steps; a multiply and an add are two.

    per_position: those of all products with weights. per_key: those of a query with one key, for
    each form of attention.
    """

    per_position: int
    per_key: Mapping[AttentionSpec, int]

    def count(self, batch: Batch) -> int:
        """Count those of a batch, whose queries attend to the keys of their own document."""
        total = self.per_position * batch.tokens.size
        for length, number in _count_documents(batch).items():
            for attention, each in self.per_key.items():
                total += number * each * count_keys_of_sequence(attention, length)
        return total


def _count_documents(batch: Batch) -> dict[int, int]:
    """Count a batch's documents by their length; each row is one where none are marked."""
    *rows, width = batch.tokens.shape
    if batch.segments is None:
        return {width: int(np.prod(rows))}
    flat = batch.segments.reshape(-1)
    begins = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))
    begins = np.union1d(begins, np.arange(0, flat.size, width))
    lengths, numbers = np.unique(np.diff(begins, append=flat.size), return_counts=True)
    return dict(zip(lengths.tolist(), numbers.tolist(), strict=True))


def make_step_flops(spec: ModelSpec, recipe: Recipe) -> StepFlops:
    """Count the forward pass, and of the backward pass what a recipe needs.

    A matrix takes 2 operations for each weight and position: forward, again where the gradient of
    its input is needed, which is where anything before it is trained, and again where it is trained
    itself; so 6 where all is trained, 4 of a frozen base under adapters, 2 of frozen first layers.
    Attention takes its forward pass twice again where anything before it is trained. Left out is
    what `count_flops` leaves out, and rows of tokens that adapters train; a trained norm counts as
    before all of its layer.
    """
    trained = frozenset(list_trainable(spec, recipe))
    adapters = list_adapter_tensors(spec, recipe.lora) if recipe.lora else {}
    table = list_parameters(spec)
    is_reached = any(name.startswith("model.embed_") for name in trained)
    per_position, per_key = 0, dict[AttentionSpec, int]()
    for i, block in enumerate(spec.layers):
        prefix = f"model.layers.{i}."
        for stage, parts in _STAGES.items():
            if stage == "mixing" and (a := block.attention) is not None:
                forward = 2 * a.num_heads * (a.head_size + a.value_size)
                per_key[a] = per_key.get(a, 0) + (3 if is_reached else 1) * forward
            within = tuple(f"{prefix}{part}" for part in parts)
            for name, tensor in table.items():
                if name.startswith(within) and len(tensor.shape) > 1:
                    per_position += _count_matrix(name, tensor, adapters, trained, is_reached)
            is_reached = is_reached or any(name.startswith(within) for name in trained)
    is_reached = is_reached or any(name.startswith("model.norm.") for name in trained)
    head = find_head(spec)
    per_position += _count_matrix(head, table[head], {}, trained, is_reached)
    return StepFlops(per_position, per_key)


def _count_matrix(
    name: str,
    matrix: Tensor,
    adapters: Mapping[str, Tensor],
    trained: frozenset[str],
    is_reached: bool,
) -> int:
    """Count the operations of a matrix and its adapter for one position.

    is_reached: whether the gradient of its input is needed.
    """
    total = 2 * matrix.size * (1 + is_reached + (name in trained))
    path = name.removesuffix("weight")
    if f"{path}{DOWN}" in adapters:
        down, up = adapters[f"{path}{DOWN}"].size, adapters[f"{path}{UP}"].size
        total += 2 * down * (2 + is_reached) + 2 * up * 3
    return total
