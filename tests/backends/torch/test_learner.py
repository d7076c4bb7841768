"""Where torch itself does not repeat its gradients, hermes_torch does."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from hermes.interface import Batch
from tests.backends.support import (
    FLOAT32,
    make_learner,
    make_spec,
)


def test_gradients_repeat_to_the_bit_on_several_threads():
    """Indexing an embedding adds its gradient in any order; the library's own function does not."""
    model = dataclasses.replace(make_spec(), vocab_size=500, hidden_size=64)
    ids = np.random.default_rng(0).integers(0, 20, (1, 16, 33)).astype(np.int32)
    data = Batch(ids[..., :-1], ids[..., 1:].copy(), np.arange(16, dtype=np.uint32)[None])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        update = make_learner("torch", model, None, FLOAT32)
        first = update.grads(data)[1]["model.embed_tokens.weight"]
        for _ in range(10):
            again = update.grads(data)[1]["model.embed_tokens.weight"]
            np.testing.assert_array_equal(again, first)
    finally:
        torch.set_num_threads(threads)
