"""The forward passes of evaluations, compiled as training's are: one trace for each shape."""

from typing import Any

import numpy as np
from mlx.core import array as Array
from numpy.typing import NDArray

from hermes.numerics.row_padding import RowPadding
from hermes_mlx.compiler import compile_function, uses_compile
from hermes_mlx.pair_groups import PairLayout
from hermes_mlx.runtime import Runtime

__all__ = ["CompiledEvaluation"]

Ids = NDArray[np.integer]


class CompiledEvaluation:
    """Computes what evaluations are made of, compiled: losses of texts, scores of pairs."""

    def __init__(self, runtime: Runtime):
        self._runtime, self._padding = runtime, RowPadding()
        self.is_on = uses_compile(runtime)  # whether there is something to be called
        self._loss: Any = None
        self._rows: Any = None
        if self.is_on:
            self._loss = compile_function(self._trace_loss, ends_on_interrupt=False)
            self._rows = compile_function(self._trace_rows, ends_on_interrupt=False)

    def compute_rows(self, tokens: Ids, targets: Ids) -> Array:
        """Each row's summed log-probability. (2 P, T) -> (2 P,)

        Of all positions, as a compiled step of training, so that no shape changes.
        """
        runtime = self._runtime
        runtime.tables.prepare(tokens.shape[1])
        pair_layout = runtime.make_pair_layout(targets, everywhere=True)
        ids = runtime.to_device(tokens), runtime.to_device(targets)
        return self._call(self._rows, *ids, pair_layout)

    def compute_loss(
        self,
        tokens: Ids,
        targets: Ids,
        segments: Ids | None,
        weights: NDArray[np.floating] | None,
    ) -> Array:
        """The summed loss. (B, T) -> (). In batches of one height: see RowPadding."""
        runtime = self._runtime
        tokens, targets, segments, weights = self._padding.pad(tokens, targets, segments, weights)
        runtime.tables.prepare(tokens.shape[1])
        return self._call(
            self._loss,
            runtime.to_device(tokens),
            runtime.to_device(targets),
            *runtime.load_segments(segments),
            None if weights is None else runtime.to_device(weights, runtime.master),
        )

    def _call(self, compiled: Any, *arguments: Any) -> Array:
        params = self._runtime.get_parameters()  # which a step has changed since the trace
        result: Array = compiled(params, *arguments)
        # The trace has left its placeholders in the module.
        self._runtime.set_parameters(params)
        return result

    def _trace_loss(
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

    def _trace_rows(
        self, params: dict[str, Any], tokens: Array, targets: Array, pair_layout: PairLayout
    ) -> Array:
        runtime, module = self._runtime, self._runtime.module
        runtime.set_parameters(params)
        x = module.model(tokens, runtime.make_context())
        return runtime.ops.row_logprobs(module, x, targets, pair_layout)
