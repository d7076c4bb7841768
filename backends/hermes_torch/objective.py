"""What a learner differentiates: a micro-batch's loss as one module."""

from typing import Any

import torch
from torch import Tensor as Array

from hermes.recipe import Recipe
from hermes_torch.recomputation import Recompute
from hermes_torch.runtime import Runtime


class Objective(torch.nn.Module):
    """A micro-batch's summed loss, as one module for DDP and torch.compile to wrap."""

    def __init__(self, runtime: Runtime, recipe: Recipe):
        super().__init__()
        self.module = runtime.module
        self._runtime, self._rule = runtime, recipe.preference
        self._z_weight = recipe.z_loss

    def forward(
        self,
        tokens: Array,
        targets: Array,
        layout: Any,
        segments: Array | None,
        positions_in_document: Array | None,
        dropout_keys: Array | None,
        reference: Array | None,
        weights: Array | None = None,
        by_row: bool = False,
        boundaries: Array | None = None,
        factor: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """The loss; of pairs, or by_row, each row's log-probability. (B, T) -> (), (B,) or None.

        factor: what the loss will be multiplied by for its gradients, (), None for no matter.
        """
        runtime = self._runtime
        options = runtime.options
        recompute: Recompute | None = "all" if options.grad_checkpoint else None
        recompute = "some" if options.selective_checkpoint else recompute
        ctx = runtime.make_context(
            None,
            segments,
            positions_in_document,
            dropout_keys,
            boundaries,
            recompute=recompute,
        )
        if by_row:
            by_rows = runtime.ops.next_token_by_row
            return self.module(tokens, ctx, by_rows, targets, layout, self._z_weight, factor)
        if reference is None:
            next_token = runtime.ops.next_token
            more = weights, self._z_weight, factor
            return self.module(tokens, ctx, next_token, targets, layout, *more), None
        pairs = reference, self._rule, weights, factor
        return self.module(tokens, ctx, runtime.ops.preference, targets, layout, *pairs)
