"""How the tokens of a micro-batch are cut into chunks."""

import numpy as np

from hermes.interface import IGNORE
from hermes.numerics.chunking import group_pairs, index_pair_targets, make_spans


def test_targets_of_pairs_are_indexed_pair_after_pair():
    targets = np.array([[1, IGNORE], [2, 3], [IGNORE, 4], [5, 6]])
    indices, ends = index_pair_targets(targets)
    assert (indices.tolist(), ends) == ([0, 5, 2, 3, 6, 7], (2, 6))
    assert index_pair_targets(targets, everywhere=True)[1] == (4, 8)
    assert index_pair_targets(np.full((2, 3), IGNORE))[1] == (6,)


def test_pairs_are_grouped_into_chunks_and_a_long_one_stands_alone():
    assert group_pairs((2, 6, 7, 9), 4) == [(0, 1), (1, 2), (2, 4)]
    assert group_pairs((2, 6, 7, 9), 1) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert group_pairs((2, 6, 7, 9), 9) == [(0, 4)]


def test_spans_cover_a_range_in_chunks():
    assert make_spans(2, 7, 2) == [(2, 4), (4, 6), (6, 7)]
