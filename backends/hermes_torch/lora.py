"""Low-rank adapters: linear layers of a model replaced by LoraLinear, at the same paths."""

from torch import Tensor as Array
from torch.nn import Module

from hermes.numerics.lora import find_adapted_paths
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes_torch.context import Context
from hermes_torch.model import Linear

FIRST_SITE = 1 << 20  # dropout sites of adapters, beyond those of any model's layers


class LoraLinear(Linear):
    """x W^T + b + scale B A dropout(x). (..., in) -> (..., out).

    Source: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3; scale = alpha / rank.
    """

    ctx: Context  # of the pass under way: a Linear's forward has no argument for it

    def __init__(self, base: Linear, lora: Lora, site: int):
        outputs, inputs = base.weight.shape
        super().__init__(inputs, outputs, False)
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = Linear(inputs, lora.rank, False)
        self.lora_B = Linear(lora.rank, outputs, False)
        self.lora, self.site = lora, site

    def forward(self, x: Array) -> Array:
        """The product of the base and of the adapter, summed."""
        low = self.lora_A(self.ctx.dropout(x, self.lora.dropout, self.site))
        return super().forward(x) + self.lora.scale * self.lora_B(low)


def adapt(module: Module, spec: ModelSpec, lora: Lora) -> list[LoraLinear]:
    """Replace every target of `lora` in the module by a LoraLinear, and return those."""
    adapters = []
    for index, path in enumerate(find_adapted_paths(spec, lora)):
        parent_path, _, name = path.rpartition(".")
        parent = module.get_submodule(parent_path)
        adapters.append(LoraLinear(getattr(parent, name), lora, FIRST_SITE + index))
        setattr(parent, name, adapters[-1])
    return adapters
