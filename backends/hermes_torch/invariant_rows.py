"""Decoding of rows whose bits do not depend on which others are read in the same pass.

Kernels choose the order of their sums by the shape of what they are given. So a pass of single
tokens always has the same number of rows, whoever is there, and each row's attention is computed
over its own keys by itself; prompts are read row by row. Source of the approach: He et al. 2025,
Defeating Nondeterminism in LLM Inference, thinkingmachines.ai.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.numerics.row_layout import RowPass, list_invariant_reads, pad_rows
from hermes.spec import AttentionSpec
from hermes_torch.cache import RowCache
from hermes_torch.context import PositionTables
from hermes_torch.row_decoder import RowContext, RowDecoder
from hermes_torch.runtime import Runtime


def narrow_pass(current: RowPass, b: int) -> RowPass:
    """The pass of one of its rows. Its moves and places are those of the cache, which has them."""
    here = slice(b, b + 1)
    return replace(
        current,
        rows=current.rows[here],
        before=current.before[here],
        after=current.after[here],
        planned=current.planned[here],
        positions=current.positions[here],
        firsts={window: first[here] for window, first in current.firsts.items()},
    )


class InvariantContext(RowContext):
    """A forward pass over `size` rows, of which the first are those of the cache's pass."""

    def __init__(self, tables: PositionTables, dtype: torch.dtype, cache: RowCache, size: int):
        super().__init__(tables, dtype, cache)
        self._alone = [self._narrow(b) for b in range(len(self.current.rows))]
        padding = size - len(self._alone)
        positions = self._token_positions
        padded = torch.cat([positions, positions[:1].expand(padding, -1)])
        self._token_positions = self.positions_in_document = padded
        planned = self.current.planned
        self.current = replace(self.current, planned=planned + planned[:1] * padding)

    def _narrow(self, b: int) -> RowContext:
        """A pass over row b alone, with the keys that are its own."""
        alone, here = copy.copy(self), slice(b, b + 1)
        alone.current = narrow_pass(self.current, b)
        alone._token_positions = self._token_positions[here]
        alone._ends = self._ends[here]
        alone._firsts = {window: first[here] for window, first in self._firsts.items()}
        alone._masks = {}
        return alone

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append to the rows' cache, but for the padding; return the keys and values there."""
        rows = len(self._alone)
        return super().update(layer, k[:rows], v[:rows])

    def _attend(
        self,
        attention: Callable[..., Array],
        q: Array,
        k: Array,
        v: Array,
        spec: AttentionSpec,
        slopes: Array | None,
        sinks: Array | None,
        site: int,
    ) -> Array:
        """Attend row by row, each to as many keys as it has; zeros for the padding."""
        found = []
        for b, alone in enumerate(self._alone):
            alone._window = self._window
            kept = int((alone.current.after - alone.current.firsts[self._window])[0])
            # Copies, so that neither strides nor alignment depend on the other rows.
            own = (q[b : b + 1], k[b : b + 1, :, :kept], v[b : b + 1, :, :kept])
            parts = (part.clone(memory_format=torch.contiguous_format) for part in own)
            found.append(attention(*parts, spec, slopes, sinks, alone, site))
        if len(q) > len(found):
            found.append(found[0].new_zeros((len(q) - len(found), *found[0].shape[1:])))
        return torch.cat(found)


class InvariantRowDecoder(RowDecoder):
    """A KV cache over rows of different lengths, none of which the others change."""

    def __init__(self, runtime: Runtime, rows: int, capacity: int):
        super().__init__(runtime, rows, capacity)
        self._size = pad_rows(rows)

    @torch.inference_mode()
    def advance(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> NDArray[np.floating]:
        """Append counts[b] of tokens[b] to rows[b]; the logits after each row's last, (B, V)."""
        tokens = np.asarray(tokens)
        self._layout.check(rows, tokens, counts)
        logits: dict[int, NDArray[np.floating]] = {}
        for which, part, left in list_invariant_reads(tokens, counts, self._layout.longest_read):
            found = self._read([rows[b] for b in which], part, left)
            logits.update(zip(which, found, strict=True))
        return np.stack([logits[b] for b in range(len(tokens))])

    def _read(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> NDArray[np.floating]:
        runtime = self._runtime
        current = self._layout.plan(rows, tokens, counts)
        if tokens.shape[1] == 1:
            tokens = np.concatenate([tokens, np.zeros((self._size - len(rows), 1), tokens.dtype)])
        with runtime.apply_options():
            self._cache.begin(current, runtime.device)
            ctx = InvariantContext(runtime.tables, runtime.dtype, self._cache, len(tokens))
            runtime.use_context(ctx)
            logits = runtime.compute_last_logits(runtime.to_device(tokens), ctx)  # (size, V)
        self._layout.finish(current)
        return logits[: len(rows)]
