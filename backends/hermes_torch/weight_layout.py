"""Matrices packed in oneDNN's own layout, for models on a CPU that are not trained.

A step of decoding multiplies every matrix by a single row, so its speed is that of reading weights
from memory; a plain matrix is read at half the speed or less of one that is packed, once, when the
model is built.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor as Array
from torch.nn import Parameter

from hermes_torch.joined_weights import list_groups
from hermes_torch.model import Linear, Transformer


@dataclass(frozen=True)
class PackedRows:
    """The matrix that is rows `start` to `end` of a packed one."""

    packed: Array
    start: int
    end: int

    def read(self) -> Array:
        """The matrix, in a plain layout."""
        return self.packed.to_dense()[self.start : self.end]


# The batch size that oneDNN chooses the layout for; measured to be good from 1 to 1024 rows.
ROWS = 16


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this processor has a packed layout for matrices of this dtype."""
    if device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    # Private, and what torch.compile asks before it packs bfloat16.
    has_bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.backends.mkldnn.is_available() and (dtype == torch.float32 or has_bfloat16)


def pack_weights(module: Transformer) -> dict[str, "PackedRows"]:
    """Pack the matrices of a Transformer, one at a time; a tied head gets one of its own.

    Those of one input are packed as one. Their own parameters then have a shape and no memory; what
    they were is returned by their names in the module.
    """
    names = {part: name for name, part in module.named_modules()}
    rows = {}
    for members in list_groups(module, Linear):
        for one, own in zip(members, _pack_group(members), strict=True):
            rows[f"{names[one]}.weight"] = own
    for part in module.modules():
        if isinstance(part, Linear) and not part.weight.is_meta:
            part.weight = pack_weight(part.weight)
    head = module.lm_head
    # A packed matrix has no rows to look up, so the embedding stays as it is.
    weight, _ = head.get_weights(module.model.embed_tokens.weight)
    head.weight = pack_weight(weight)
    return rows


@torch.no_grad()
def _pack_group(members: Sequence[Any]) -> list["PackedRows"]:
    """Pack matrices of one input as one; each one's rows of it."""
    first, weights = members[0], [one.weight for one in members]
    joined = _reorder(torch.cat(weights))
    first.leads_product, first.joined = True, joined
    first.joined_sizes = [len(weight) for weight in weights]
    if first.bias is not None:
        first.joined_bias = torch.cat([one.bias for one in members]).to(weights[0].dtype)
    ends = torch.tensor([len(weight) for weight in weights]).cumsum(0).tolist()
    for one, weight in zip(members, weights, strict=True):
        one.weight = Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
    return [
        PackedRows(joined, end - len(weight), end)
        for end, weight in zip(ends, weights, strict=True)
    ]


def pack_weight(weight: Array) -> Parameter:
    """Copy a matrix into oneDNN's layout, in which it can be multiplied and nothing else."""
    return Parameter(_reorder(weight.detach()), requires_grad=False)


def _reorder(weight: Array) -> Array:
    # Private: the operator with which torch.compile packs weights when it freezes a model.
    # torch.utils.mkldnn, the public way, makes modules whose inputs must be packed as well.
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
