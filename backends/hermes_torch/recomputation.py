"""Selective activation checkpointing: what a block keeps for its backward pass."""

from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from hermes_torch import block_attention, onednn_products  # noqa: F401 (register operators)
from hermes_torch.fused_attention import FUSED_OPERATORS

Recompute = Literal["some", "all"]

_aten = torch.ops.aten

# What takes long for what it gives: products with weights, (N, in) x (in, out), and attention. Not
# bmm, by which written-out attention makes tensors of every query and key.
KEPT = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        torch.ops.hermes_torch.multiply_by_onednn.default,
        torch.ops.hermes_torch.attend_in_blocks.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)


def choose_policy(ctx: Any, operator: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    """Whether an operator's output is kept or computed again."""
    kept = operator in KEPT or str(operator) in FUSED_OPERATORS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def make_selective_contexts() -> tuple[Any, Any]:
    """The contexts of a block's first and second run, for torch's checkpoint."""
    contexts: tuple[Any, Any] = create_selective_checkpoint_contexts(choose_policy)
    return contexts
