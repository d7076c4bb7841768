"""What torch keeps for the whole process: asked for in a block, and after it as it was before."""

import contextlib
import os

import torch


def applied_options(options):
    """A block that computes as the options ask."""
    stack = contextlib.ExitStack()
    if options.deterministic:
        stack.enter_context(deterministic())
    if options.precision == "tf32":
        stack.enter_context(tf32())
    return stack


@contextlib.contextmanager
def deterministic():
    """Operations give the same bits each time, or fail."""
    # cuBLAS repeats itself only with this; it is read when CUDA begins.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


@contextlib.contextmanager
def tf32():
    """CUDA rounds the inputs of float32 products to TF32's ten bits, and sums in float32.

    By torch's older setting: its compiler reads that one, which fails once the newer one is set.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def has_tf32(device):
    """Whether the device has units that multiply in TF32, as CUDA's have since Ampere."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
