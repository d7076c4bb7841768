"""Micro-batches of an evaluation, all of one height: compilers then see one shape a length."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.interface import IGNORE

__all__ = ["RowPadding"]


class RowPadding:
    """Gives a micro-batch of fewer rows than one before rows without targets, up to as many.

    The last one of a text has fewer rows as a rule; its sums stay as they are.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[int, ...], int] = {}  # by length, and which arrays there are

    def pad(
        self,
        tokens: NDArray[np.integer],
        targets: NDArray[np.integer],
        segments: NDArray[np.integer] | None,
        weights: NDArray[np.floating] | None,
    ) -> tuple[Any, Any, Any, Any]:
        """The arrays with rows added. (B, T) each -> (R, T) each, or None where there is none."""
        rows, length = tokens.shape
        key = length, segments is not None, weights is not None
        self._rows[key] = most = max(rows, self._rows.get(key, 0))
        if rows == most:
            return tokens, targets, segments, weights

        def add(array: Any, value: int) -> Any:
            if array is None:
                return None
            return np.pad(array, ((0, most - rows), (0, 0)), constant_values=value)

        return add(tokens, 0), add(targets, IGNORE), add(segments, 0), add(weights, 0)
