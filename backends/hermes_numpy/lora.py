"""Low-rank adapters: the weights that they amount to, and layers that drop. NumPy, float64."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy import ndarray as Array

from hermes.numerics.lora import find_adapted_paths
from hermes.numerics.merging import MAGNITUDE
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes_numpy.context import Context
from hermes_numpy.model import Linear, Transformer
from hermes_numpy.ops import linear

FIRST_SITE = 1 << 20  # dropout sites of adapters, beyond those of any model's layers


class LoraLinear(Linear):
    """x W^T + b + scale B A dropout(x), and with DoRA its rows at a trained length.

    Without dropout it is what `merge_adapter` and `scale_rows` make of W. (..., in) -> (..., out).
    """

    ctx: Context  # of the pass under way: a Linear's call has no argument for it

    def __init__(self, base: Linear, adapter: Mapping[str, Array], lora: Lora, site: int):
        self.weight, self.bias = base.weight, base.bias
        self.a, self.b = adapter["lora_A.weight"], adapter["lora_B.weight"]
        self.magnitude = adapter.get(MAGNITUDE)
        self.lora, self.site = lora, site

    def __call__(self, x: Array) -> Array:
        """The product of the base and of the adapter, summed."""
        low = linear(self.ctx.dropout(x, self.lora.dropout, self.site), self.a, None)
        y = linear(x, self.weight, None) + self.lora.scale * linear(low, self.b, None)
        if self.magnitude is not None:
            merged = merge_adapter(self.weight, self.a, self.b, self.lora)
            # Of the real part: the lengths of rows are constants to the derivative.
            y = y * (self.magnitude / measure_rows(np.asarray(merged).real))
        return y if self.bias is None else y + self.bias


def adapt(
    module: Transformer, spec: ModelSpec, params: Mapping[str, Array], lora: Lora
) -> list[LoraLinear]:
    """Replace every target of `lora` in the module by a LoraLinear, and return those.

    params: has the adapters' tensors by name.
    """
    adapters = []
    for index, path in enumerate(find_adapted_paths(spec, lora)):
        parent: object = module
        *way, last = path.split(".")
        for name in way:
            parent = parent[int(name)] if isinstance(parent, list) else getattr(parent, name)
        names = ("lora_A.weight", "lora_B.weight", *([MAGNITUDE] if lora.dora else []))
        adapter = {name: params[f"{path}.{name}"] for name in names}
        adapters.append(LoraLinear(getattr(parent, last), adapter, lora, FIRST_SITE + index))
        setattr(parent, last, adapters[-1])
    return adapters


def merge_adapter(weight: Array, a: Array, b: Array, lora: Lora) -> Array:
    """W + scale B A, whose product with x is W x + scale B (A x).

    scale is alpha / rank, with rslora alpha / sqrt(rank). (out, in), (rank, in), (out, rank) ->
    (out, in). Sources: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3; Kalajdzievski 2023,
    arXiv:2312.03732, definition 3.
    """
    divisor = math.sqrt(lora.rank) if lora.rslora else lora.rank
    return weight + lora.alpha / divisor * (b @ a)


def measure_rows(weight: Array) -> Array:
    """The length of each row, 1 for a row of zeros. (out, in) -> (out,)."""
    length = np.sqrt((weight * weight).sum(axis=1))
    return np.where(length == 0, 1.0, length)


def scale_rows(weight: Array, magnitude: Array, length: Array) -> Array:
    """DoRA: m V / |V|, where V = W + scale B A. (out, in), (out,), (out,) -> (out, in).

    length: measure_rows(V), which has no derivative: section 4.3 holds it constant.
    Source: Liu et al. 2024, DoRA, arXiv:2402.09353, eq. 5.
    """
    return weight * (magnitude / length)[:, None]


def put_rows(weight: Array, token_ids: Sequence[int], rows: Array) -> Array:
    """The matrix with other rows for some tokens. (V, C), (r,), (r, C) -> (V, C)."""
    result = weight.copy()
    result[list(token_ids)] = rows
    return result
