"""Rows of examples: which share one, how wide it is, and where their tokens are in it."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hermes.chat_templates.example import Example
from hermes.interface import IGNORE

__all__ = ["fill_rows", "fill_weights", "pack_rows", "round_width", "sum_weights"]

# Rows are padded to one of at most four widths, because frameworks compile each width anew.
WIDTHS = 4
MULTIPLE = 16


def pack_rows(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Group examples into rows of `room` positions: best fit decreasing. -> numbers per row

    Fills about 99 % of the positions for typical data. Source: Johnson 1973.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    rows: list[list[int]] = []
    space: dict[int, list[int]] = {}  # rows by the number of positions left
    known: list[int] = []  # the keys of `space`, sorted
    for i in order:
        at = bisect_left(known, lengths[i])
        if at < len(known):
            left = known[at]
            row = space[left].pop()
            if not space[left]:
                del space[left], known[at]
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(i)
        left -= lengths[i]
        if left not in space:
            space[left] = []
            insort(known, left)
        space[left].append(row)
    return [sorted(row) for row in rows]


def round_width(longest: int, room: int) -> int:
    """Round the width of a batch's longest row up to one of at most four widths up to `room`."""
    step = -(-room // WIDTHS)
    step = -(-step // MULTIPLE) * MULTIPLE
    return min(room, -(-max(longest, 1) // step) * step)


def fill_rows(
    rows: Sequence[Sequence[Example]], width: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Lay examples out in rows. -> tokens, targets and segments, each (rows, width)

    Unused positions have token 0, target IGNORE and segment 0; examples are segments from 1 on.
    """
    shape = (len(rows), width)
    tokens, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    targets = np.full(shape, IGNORE, np.int32)
    for r, row in enumerate(rows):
        at = 0
        for number, example in enumerate(row, 1):
            end = at + len(example) - 1
            tokens[r, at:end] = example.ids[:-1]
            targets[r, at:end] = np.where(example.loss_mask[1:], example.ids[1:], IGNORE)
            segments[r, at:end] = number
            at = end
    return tokens, targets, segments


def fill_weights(rows: Sequence[Sequence[Example]], width: int) -> NDArray[np.float32]:
    """Lay the weights of targets out as `fill_rows` does the targets. -> (rows, width)"""
    weights = np.zeros((len(rows), width), np.float32)
    for r, row in enumerate(rows):
        at = 0
        for example in row:
            end = at + len(example) - 1
            weights[r, at:end] = example.token_weights[1:]
            at = end
    return weights


def sum_weights(example: Example) -> float:
    """The sum of an example's weights, 1 of each target where it has none."""
    return float(example.token_weights[1:].sum(dtype=np.float64))
