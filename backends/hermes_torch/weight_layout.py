"""Matrices packed in oneDNN's own layout, for models on a CPU that are not trained.

A step of decoding multiplies every matrix by a single row, so its speed is that of reading weights
from memory; a plain matrix is read at half the speed or less of one that is packed, once, when the
model is built.
"""

import torch
from torch import Tensor as Array
from torch.nn import Parameter

from hermes_torch.model import Linear, Transformer

# The batch size that oneDNN chooses the layout for; measured to be good from 1 to 1024 rows.
ROWS = 16


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this processor has a packed layout for matrices of this dtype."""
    if device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    # Private, and what torch.compile asks before it packs bfloat16.
    has_bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.backends.mkldnn.is_available() and (dtype == torch.float32 or has_bfloat16)


def pack_weights(module: Transformer) -> None:
    """Pack the matrices of a Transformer, one at a time; a tied head gets one of its own."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.weight = pack_weight(part.weight)
    head = module.lm_head
    # A packed matrix has no rows to look up, so the embedding stays as it is.
    weight, _ = head.get_weights(module.model.embed_tokens.weight)
    head.weight = pack_weight(weight)


def pack_weight(weight: Array) -> Parameter:
    """Copy a matrix into oneDNN's layout, in which it can be multiplied and nothing else."""
    # Private: the operator with which torch.compile packs weights when it freezes a model.
    # torch.utils.mkldnn, the public way, makes modules whose inputs must be packed as well.
    layout = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
    return Parameter(layout, requires_grad=False)
