"""Emulate TF32 where there is none: torch on a CPU, with the inputs of matrix products rounded.

This works below autograd, so that products of the forward and the backward pass are rounded alike,
as a unit with TF32 does it; their sums stay float32.
"""

from typing import Any

from hermes_conformance.faults.fault import Plant
from hermes_conformance.faults.patcher import Patcher

TF32_BITS, BFLOAT16_BITS, FLOAT32_BITS = 10, 7, 23  # of the mantissa, without the leading one


def make_rounding_mode(bits: int, *, nearest: bool = True) -> Any:
    """A context in which inputs of torch's products have so many bits.

    They are rounded to nearest, or towards zero.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode  # torch has no public form of it

    products = ("mm", "bmm", "addmm", "baddbmm")  # torch turns all other products into these
    lost = FLOAT32_BITS - bits

    def shorten(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
            return x
        half = 1 << (lost - 1) if nearest else 0
        return ((x.view(torch.int32) + half) & -(1 << lost)).view(torch.float32)

    class Rounding(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket.__name__ in products:
                args = (*args[:-2], *map(shorten, args[-2:]))
            return function(*args, **(kwargs or {}))

    return Rounding()


def round_products(bits: int, precision: str, *, nearest: bool = True) -> Plant:
    """Matrix products take inputs of so many bits in models of that precision."""

    def plant(patcher: Patcher) -> None:
        from torch.nn import attention

        def wrap(original):
            def faulty(self):
                stack = original(self)
                if self.options.precision == precision:
                    # The math backend makes its products by operations that the mode can see.
                    stack.enter_context(attention.sdpa_kernel(attention.SDPBackend.MATH))
                    stack.enter_context(make_rounding_mode(bits, nearest=nearest))
                return stack

            return faulty

        # Weights laid out for the processor are multiplied by operations of other names.
        patcher.replace(patcher.load_module("runtime"), "can_pack", lambda device, dtype: False)
        patcher.replace(patcher.load_module("onednn_products"), "FASTER", False)
        patcher.wrap_method("runtime", "Runtime", "apply_options", wrap)

    return plant


def emulate_tf32(patcher: Patcher) -> None:
    """hermes_torch computes in tf32 on any device, by rounding."""
    patcher.replace(patcher.load_module("runtime"), "has_tf32", lambda device: True)
    round_products(TF32_BITS, "tf32")(patcher)
