"""With fewer heads of keys, attention on CUDA keeps to a fused kernel."""

import numpy as np
import pytest
import torch

from hermes_torch import ops
from hermes_torch.ops import can_fuse_grouped_heads
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec

LOW, WIDE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("device", "dtype", "sizes", "has_mask", "takes"),
    [
        ("cpu", WIDE, (64, 64), True, True),
        ("cuda", LOW, (64, 64), False, True),
        ("cuda", torch.float16, (128, 128), False, True),
        ("cuda", WIDE, (64, 64), False, False),
        ("cuda", WIDE, (64, 64), True, False),
        ("cuda", LOW, (64, 64), True, False),
        ("cuda", LOW, (192, 128), False, False),
        ("cuda", torch.float64, (64, 64), False, False),
    ],
)
def test_only_the_flash_kernel_takes_them(device, dtype, sizes, has_mask, takes):
    assert can_fuse_grouped_heads(device, dtype, sizes, has_mask=has_mask) == takes


def test_expanded_keys_give_the_same_loss_and_gradients(monkeypatch):
    """As on CUDA in float32: the kernel is given as many heads of keys as of queries."""
    model, batch, heads = make_spec(), make_batch(), []
    loss, grads = make_learner("torch", model, options=FLOAT32).grads(batch)
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watch(q, k, v, **options):
        heads.append((q.shape[1], k.shape[1], v.shape[1]))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    fuses = can_fuse_grouped_heads
    monkeypatch.setattr(ops, "can_fuse_grouped_heads", lambda _, *a, **b: fuses("cuda", *a, **b))
    expanded_loss, expanded = make_learner("torch", model, options=FLOAT32).grads(batch)
    assert heads == [(4, 4, 4)] * 2
    assert expanded_loss == pytest.approx(loss, rel=1e-6)
    for name, grad in grads.items():
        error = np.linalg.norm(expanded[name] - grad) / np.linalg.norm(grad)
        assert error < 3e-6, name
