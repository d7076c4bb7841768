"""The KV cache of rows: what a pass writes, at once where it is one block of the buffers."""

import numpy as np
import pytest

pytest.importorskip("mlx.core")

from hermes.interface import find_backend
from tests.backends.support import FLOAT32, make_spec, make_weights

CAPACITY = 12
TOKENS = np.random.default_rng(0).integers(0, 16, (3, 8))


def make_decoder():
    spec = make_spec()
    model = find_backend("mlx").build(spec, make_weights(spec), FLOAT32)
    decoder = model.row_decoder(4, CAPACITY)
    for row in range(4):
        decoder.open_row(row, CAPACITY)
    return decoder


@pytest.mark.parametrize("first", [0, 1])
def test_rows_side_by_side_have_what_rows_apart_have(first):
    together, apart = make_decoder(), make_decoder()
    rows, start = [first, first + 1, first + 2], 0
    for count in (5, 1, 2):
        tokens = TOKENS[:, start : start + count]
        logits = together.advance(rows, tokens, [count] * 3)
        # In another order they are not a slice of the buffers.
        others = apart.advance(rows[::-1], tokens[::-1], [count] * 3)[::-1]
        np.testing.assert_allclose(logits, others, atol=1e-5)
        start += count
    for row in rows:
        found, expected = together.read_row(row), apart.read_row(row)
        assert found.keys() == expected.keys()
        for name, part in found.items():
            assert part.shape[1] == start
            np.testing.assert_allclose(part, expected[name], atol=1e-5)


def test_a_block_is_neighbours_whose_tokens_all_go_to_the_same_places():
    decoder = make_decoder()
    layout = decoder._layout

    def find(rows, tokens, counts):
        return layout.plan(rows, tokens, counts).find_block(None)

    assert find([1, 2, 3], TOKENS[:, :4], [4, 4, 4]) == (slice(1, 4), slice(0, 4))
    assert find([1, 2, 3], TOKENS[:, :4], [4, 3, 4]) is None  # one is padded
    assert find([2, 1, 3], TOKENS[:, :4], [4, 4, 4]) is None
    decoder.advance([1], TOKENS[:1, :2], [2])
    assert find([1], TOKENS[:1, :1], [1]) == (slice(1, 2), slice(2, 3))
    assert find([1, 2], TOKENS[:2, :1], [1, 1]) is None  # one has more tokens than the other
