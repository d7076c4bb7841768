"""TF32 where there is none: torch on a CPU, with the inputs of every product rounded.

Of the forward and of the backward pass alike, below autograd, as the units that multiply so do it:
sums stay float32.
"""

from importlib import import_module
from typing import Any

from hermes_conformance.faults.fault import Inside

TF32_BITS, BFLOAT16_BITS = 10, 7  # of the mantissa, without the leading one


def rounding(bits: int, *, nearest: bool = True) -> Any:
    """A block in which torch's products take inputs of so many bits, to nearest or towards zero."""
    torch = import_module("torch")
    modes = import_module("torch.utils._python_dispatch")
    products = ("mm", "bmm", "addmm", "baddbmm")  # all that the others become
    lost = 23 - bits

    def shorter(x):
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32:
            return x
        half = 1 << (lost - 1) if nearest else 0
        return ((x.view(torch.int32) + half) & -(1 << lost)).view(torch.float32)

    class Rounding(modes.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket.__name__ in products:
                args = (*args[:-2], *map(shorter, args[-2:]))
            return function(*args, **(kwargs or {}))

    return Rounding()


def products_of(bits: int, precision: str, *, nearest: bool = True):
    """Products of models of that precision take inputs of so many bits."""

    def plant(inside: Inside) -> None:
        attention = import_module("torch.nn.attention")

        def make(original):
            def wrong(self):
                stack = original(self)
                if self.options.precision == precision:
                    # Written out, so that its products are seen.
                    stack.enter_context(attention.sdpa_kernel(attention.SDPBackend.MATH))
                    stack.enter_context(rounding(bits, nearest=nearest))
                return stack

            return wrong

        # Matrices that are laid out for the processor go into products of another name.
        inside.replace(inside.module("runtime"), "can_pack", lambda device, dtype: False)
        inside.method("runtime", "Runtime", "apply_options", make)

    return plant


def emulated(inside: Inside) -> None:
    """hermes_torch computes in tf32 on any device, by rounding."""
    inside.replace(inside.module("runtime"), "has_tf32", lambda device: True)
    products_of(TF32_BITS, "tf32")(inside)
