"""Settings that torch keeps for the whole process: set in a context, and restored after it."""

import contextlib
import os
from collections.abc import Iterator

import torch

from hermes.interface import Options

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
# Of oneDNN, and of what torch has around it: each keeps 1,024 kernels of its own if left alone.
KERNEL_CACHE_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
MOST_KERNELS = 128


def apply_options(options: Options) -> contextlib.ExitStack:
    """A context in which torch's settings are those of the options."""
    stack = contextlib.ExitStack()
    if options.deterministic:
        stack.enter_context(use_deterministic())
    if options.precision == "tf32":
        stack.enter_context(use_tf32())
    return stack


@contextlib.contextmanager
def use_deterministic() -> Iterator[None]:
    """A context in which operations give the same bits each time, or raise."""
    # cuBLAS is deterministic only with this workspace, read once, when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


@contextlib.contextmanager
def use_tf32() -> Iterator[None]:
    """A context in which CUDA rounds inputs of float32 products to TF32's 10 bits.

    By torch's older setting: torch.compile reads that one, and fails once the newer one
    (torch.backends.cuda.matmul.fp32_precision) has been set.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def use_expandable_segments() -> None:
    """Let CUDA's allocator grow its segments, before its first allocation of a training run.

    Passes of several widths (documents of their own length, evaluation) otherwise leave memory that
    fits none of the others. The user's own setting is left as it is.
    """
    if not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        # Private, and what torch itself calls for the variable; it takes effect in this process.
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")


def limit_kernel_caches() -> None:
    """Let oneDNN keep fewer kernels, before its first product in this process.

    On a CPU with matrix units a product in bfloat16 has a kernel of its own, of up to 0.6 MB, for
    each number of rows and keys: a server of many lengths would keep hundreds of megabytes. The
    user's own setting is left as it is.
    """
    for name in KERNEL_CACHE_VARIABLES:
        os.environ.setdefault(name, str(MOST_KERNELS))


def has_tf32(device: torch.device) -> bool:
    """Whether the device multiplies in TF32: CUDA's do since Ampere (compute capability 8)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
