"""The buffers of a KV cache: as many tokens as a window needs, however long the text is."""

import numpy as np
import pytest
import torch

from hermes.errors import HermesError
from hermes.inference.row_decoding import make_row_decoder
from tests.inference.support import V, make_model

BACKENDS = ["torch", "mlx"]


def list_sizes(cache):
    """Tokens that each layer's buffers have room for."""
    return [buffers[0].shape[2] for buffers in cache._layers]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_bounds_the_buffers_of_its_layers(backend):
    model = make_model(backend, "window", 300)
    tokens = np.random.default_rng(0).integers(0, V, (1, 300))
    expected = model.logits(tokens)[0]
    decoder = model.decoder(1, 300)
    rows = make_row_decoder(model, 2, 300)
    rows.open_row(1, 300)
    start = 0
    for count in (4, 1, 1, 90, *[1] * 54, 3, 147):
        part = tokens[:, start : start + count]
        start += count
        for logits in (decoder.advance(part), rows.advance([1], part, [count])):
            np.testing.assert_allclose(logits[0], expected[start - 1], rtol=1e-4, atol=1e-4)
    assert start == 300
    assert list_sizes(decoder._cache) == [10, 300]  # the second layer has no window
    assert list_sizes(rows._cache) == [10, 300]


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_row_held_does_not_reach_the_next_text(backend):
    """Not even what is no number, of weights that overflowed on another text."""
    model = make_model(backend)
    rows = make_row_decoder(model, 2, 20)
    text = np.arange(12)[None]
    expected = model.logits(text)[0, -1]
    rows.open_row(0, 20)
    rows.advance([0], text, [12])
    with torch.inference_mode():  # as torch's buffers were made
        for buffers in rows._cache._layers:
            for buffer in buffers:
                buffer[0] = float("nan")
    rows.open_row(0, 20)
    rows.open_row(1, 20)
    both = np.concatenate([text, text])
    logits = rows.advance([0, 1], both, [3, 12])
    np.testing.assert_allclose(logits[1], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        rows.advance([0], text[:, 3:], [9])[0], expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backend", [*BACKENDS, "numpy"])
def test_what_a_cache_of_rows_cannot_do_is_refused(backend):
    rows = make_row_decoder(make_model(backend), 2, 8)
    one = np.ones((1, 4), int)
    rows.open_row(0, 6)
    rows.advance([0], one, [4])
    for bad in (
        lambda: rows.open_row(2, 8),
        lambda: rows.open_row(0, 9),
        lambda: rows.advance([0], one, [4]),  # beyond the row's capacity
        lambda: rows.advance([1], one, [4]),  # not open
        lambda: rows.advance([0], one, [0]),
        lambda: rows.advance([0, 0], np.ones((2, 1), int), [1, 1]),
        lambda: rows.advance([0], one * 99, [1]),
    ):
        with pytest.raises(HermesError):
            bad()
