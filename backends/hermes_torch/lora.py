"""Low-rank adapters on a built module: an Adapted in the place of each target, at the same path."""

from hermes.numerics.lora import find_adapted_paths
from hermes_torch.model import Linear

FIRST_SITE = 1 << 20  # dropout sites of adapters, beyond those of any model's layers


class Adapted(Linear):
    """W x + b + scale B A drop(x). (..., in) -> (..., out)."""

    def __init__(self, base, lora, site):
        outputs, inputs = base.weight.shape
        super().__init__(inputs, outputs, False)
        self.weight, self.bias = base.weight, base.bias
        self.lora_A, self.lora_B = (
            Linear(inputs, lora.rank, False),
            Linear(lora.rank, outputs, False),
        )
        self.lora, self.site, self.ctx = lora, site, None

    def forward(self, x):
        """The base's product and the adapter's."""
        low = self.lora_A(self.ctx.dropout(x, self.lora.dropout, self.site))
        return super().forward(x) + self.lora.scale * self.lora_B(low)


def adapt(module, spec, lora):
    """Put an Adapted in the place of every target; they are handed back."""
    made = []
    for number, path in enumerate(find_adapted_paths(spec, lora)):
        parent, _, name = path.rpartition(".")
        parent = module.get_submodule(parent)
        made.append(Adapted(getattr(parent, name), lora, FIRST_SITE + number))
        setattr(parent, name, made[-1])
    return made
