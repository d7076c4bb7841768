"""The forward passes of evaluations, compiled as training's are: one graph for each shape."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.numerics.row_padding import RowPadding
from hermes_torch.compiler import compile_function, warn_compiler_failed
from hermes_torch.pair_groups import PairLayout
from hermes_torch.runtime import Runtime

__all__ = ["CompiledEvaluation", "uses_compile"]

Ids = NDArray[np.integer]


def uses_compile(runtime: Runtime) -> bool:
    """Whether a model's passes are compiled: on CUDA, unless the options say otherwise.

    Not where FSDP splits it, whose blocks are compiled each by itself, nor with packed matrices,
    which the compiler does not know.
    """
    if runtime.shards or runtime.is_packed:
        return False
    wanted = runtime.options.compile
    return runtime.device.type == "cuda" if wanted is None else wanted


class TextLoss(torch.nn.Module):
    """A micro-batch's summed loss without dropout, as one module for torch.compile."""

    def __init__(self, runtime: Runtime):
        super().__init__()
        self.module, self._runtime = runtime.module, runtime

    def forward(
        self,
        tokens: Array,
        targets: Array,
        segments: Array | None,
        positions_in_document: Array | None,
        boundaries: Array | None,
        weights: Array | None,
    ) -> Array:
        """-log p of the targets, each times its weight, summed. (B, T) -> ()."""
        runtime = self._runtime
        ctx = runtime.make_context(None, segments, positions_in_document, boundaries=boundaries)
        logprobs = self.module(tokens, ctx, runtime.ops.logprobs, targets, None)
        return -(logprobs if weights is None else logprobs * weights).sum()


class PairRows(torch.nn.Module):
    """The log-probabilities of a micro-batch of pairs, as one module for torch.compile."""

    def __init__(self, runtime: Runtime):
        super().__init__()
        self.module, self._runtime = runtime.module, runtime

    def forward(self, tokens: Array, targets: Array, pair_layout: PairLayout) -> Array:
        """Each row's log p of its targets, summed. (2 P, T) -> (2 P,)."""
        runtime = self._runtime
        ctx = runtime.make_context()
        return self.module(tokens, ctx, runtime.ops.row_logprobs, targets, pair_layout)


class CompiledEvaluation:
    """Computes what evaluations are made of, compiled: losses of texts, scores of pairs.

    Where the compiler fails, that is said once, and both give None from then on.
    """

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._loss: Any = None
        self._rows: Any = None
        if uses_compile(runtime):
            self._loss = compile_function(TextLoss(runtime))
            self._rows = compile_function(PairRows(runtime))
        self._padding = RowPadding()
        self._works = False

    @property
    def is_on(self) -> bool:
        """Whether there is something to be called."""
        return self._loss is not None

    def compute_rows(self, tokens: Ids, targets: Ids) -> Array | None:
        """Each row's summed log-probability, (2 P, T) -> (2 P,); None where the compiler failed.

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
    ) -> Array | None:
        """The summed loss, (B, T) -> (); None where the compiler has failed.

        In batches of one height: see RowPadding.
        """
        runtime = self._runtime
        tokens, targets, segments, weights = self._padding.pad(tokens, targets, segments, weights)
        runtime.tables.prepare(tokens.shape[1])
        arguments = (
            runtime.to_device(tokens),
            runtime.to_device(targets),
            *runtime.load_segments(segments),
            runtime.load_boundaries(segments),
            None if weights is None else runtime.to_device(weights, runtime.master),
        )
        return self._call(self._loss, *arguments)

    def _call(self, compiled: Any, *arguments: Any) -> Array | None:
        try:
            result: Array = compiled(*arguments)
        except Exception as error:
            is_first = not self._works
            if not warn_compiler_failed(error, is_first_forward=is_first, ends_on_interrupt=False):
                raise
            self._loss = self._rows = None
            self._runtime.kernels.flex = False  # of the same compiler
            return None
        self._works = True
        return result
