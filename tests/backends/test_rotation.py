"""Decoding turns pairs in fewer operations than training, to the bit."""

import mlx.core as mx
import numpy as np
import pytest
import torch

import hermes_mlx.rotation
import hermes_torch.rotation

WAYS = {
    "torch": (hermes_torch.rotation, torch.from_numpy, torch.stack, torch.bfloat16),
    "mlx": (hermes_mlx.rotation, mx.array, mx.stack, mx.bfloat16),
}


@pytest.mark.parametrize("backend", WAYS)
@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("size", [8, 6])  # all of a head of 8, and a part
@pytest.mark.parametrize("rows", [None, 2])  # whether each row has positions of its own
def test_pairs_turn_in_fewer_operations_to_the_bit(backend, is_short, size, rows):
    rotation, make, stack, short = WAYS[backend]
    random = np.random.default_rng(1)
    shape = (5, size // 2) if rows is None else (rows, 5, size // 2)
    angles = random.uniform(0, 6, shape).astype(np.float32)
    numbers = random.standard_normal((2, 3, 5, 8)).astype(np.float32)
    with mx.stream(mx.Device(mx.cpu)):
        cos, sin, x = make(np.cos(angles)), make(np.sin(angles)), make(numbers)
        if is_short:
            x = x.to(short) if backend == "torch" else x.astype(short)
        pairs = (
            stack([cos, cos], -2)[..., None, :, :, :],
            stack([-sin, sin], -2)[..., None, :, :, :],
        )
        found, expected = rotation.rotate_pairs(x, *pairs), rotation.rotate(x, cos, sin)
        assert found.dtype == expected.dtype == x.dtype
        assert (found == expected).all().item()
