"""Rows of different lengths on any backend: together where it can, else row by row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hermes.errors import HermesError, Unsupported
from hermes.interface import (
    Decoder,
    DecodesInvariantRows,
    DecodesRows,
    KeepsRows,
    Model,
    RowDecoder,
)

__all__ = ["SeparateRows", "make_row_decoder", "require_keeping"]


def make_row_decoder(
    model: Model, rows: int, capacity: int, *, batch_invariant: bool = False
) -> RowDecoder:
    """A cache of rows that begin and end each by itself, as the backend has it or by its decoders.

    batch_invariant: a row's logits are the same bits whoever is read beside it. Raises Unsupported
    where the backend decodes nothing.
    """
    if batch_invariant:
        if isinstance(model, DecodesInvariantRows):
            return model.invariant_row_decoder(rows, capacity)
        return SeparateRows(model, rows)
    if isinstance(model, DecodesRows):
        return model.row_decoder(rows, capacity)
    return SeparateRows(model, rows)


def require_keeping(decoder: RowDecoder) -> KeepsRows:
    """The cache as one whose rows can be kept outside of it. Raises Unsupported if it is none."""
    if not isinstance(decoder, KeepsRows):
        raise Unsupported("this backend gives no rows of its cache away; leave --prompt-cache out")
    return decoder


class SeparateRows:
    """A decoder for each row, for a backend whose rows advance together only."""

    def __init__(self, model: Model, rows: int):
        self._model = model
        self._rows: list[Decoder | None] = [None] * rows

    def open_row(
        self, row: int, capacity: int, *, source: int | None = None, length: int = 0
    ) -> int:
        """Begin a row anew. -> 0: decoders cannot be copied"""
        self._rows[row] = self._model.decoder(1, capacity)
        return 0

    def advance(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> NDArray[np.floating]:
        """Append counts[b] of tokens[b] to rows[b]; the logits after each row's last, (B, V)."""
        logits = []
        for row, row_tokens, count in zip(rows, tokens, counts, strict=True):
            decoder = self._rows[row]
            if decoder is None:
                raise HermesError(f"row {row} is not open")
            logits.append(decoder.advance(row_tokens[None, :count])[0])
        return np.stack(logits)
