"""The forward pass of an evaluation, compiled as training's is: one trace for each shape."""

from typing import Any

import numpy as np
from mlx.core import array as Array
from numpy.typing import NDArray

from hermes.numerics.row_padding import RowPadding
from hermes_mlx.compiler import compile_function, uses_compile
from hermes_mlx.runtime import Runtime

__all__ = ["CompiledEvaluation"]

Ids = NDArray[np.integer]


class CompiledEvaluation:
    """Computes losses of micro-batches compiled, in batches of one height; see RowPadding."""

    def __init__(self, runtime: Runtime):
        self._runtime, self._padding = runtime, RowPadding()
        self.is_on = uses_compile(runtime)  # whether `compute` is to be called
        self._loss: Any = None
        if self.is_on:
            self._loss = compile_function(self._compute_loss, ends_on_interrupt=False)

    def compute(
        self,
        tokens: Ids,
        targets: Ids,
        segments: Ids | None,
        weights: NDArray[np.floating] | None,
    ) -> Array:
        """The summed loss. (B, T) -> ()."""
        runtime = self._runtime
        tokens, targets, segments, weights = self._padding.pad(tokens, targets, segments, weights)
        runtime.tables.prepare(tokens.shape[1])
        params = runtime.get_parameters()  # which a step has changed since the trace
        loss: Array = self._loss(
            params,
            runtime.to_device(tokens),
            runtime.to_device(targets),
            *runtime.load_segments(segments),
            None if weights is None else runtime.to_device(weights, runtime.master),
        )
        # The trace has left its placeholders in the module.
        runtime.set_parameters(params)
        return loss

    def _compute_loss(
        self,
        params: dict[str, Any],
        tokens: Array,
        targets: Array,
        segments: Array | None,
        positions_in_document: Array | None,
        weights: Array | None,
    ) -> Array:
        runtime, module = self._runtime, self._runtime.module
        runtime.set_parameters(params)
        x = module.model(tokens, runtime.make_context(None, segments, positions_in_document))
        logprobs = runtime.ops.logprobs(module, x, targets, None)
        return -(logprobs if weights is None else logprobs * weights).sum()
