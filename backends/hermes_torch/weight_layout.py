"""Matrices in the order in which oneDNN reads them, for models on a CPU that are not trained.

A step of decoding multiplies one row by every matrix, and waits for memory; a plain matrix is read
at half the speed or less of one that is laid out for the processor, once, when the model is built.
"""

import torch
from torch.nn import Parameter

from hermes_torch.model import Linear

ROWS = 16  # the layout is good for products of about so many rows, and measured from 1 to 1024


def can_pack(device, dtype):
    """Whether this processor has such a layout for matrices of this type."""
    if device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    short = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.backends.mkldnn.is_available() and (dtype == torch.float32 or short)


def pack_weights(module):
    """Lay out the matrices of a Transformer, one at a time; a tied head gets one of its own."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.weight = packed(part.weight)
    head = module.lm_head
    head.weight = packed(module.model.embed_tokens.weight if head.weight is None else head.weight)


def packed(weight):
    """The same matrix in oneDNN's own layout, in which nothing else can be done with it."""
    layout = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
    return Parameter(layout, requires_grad=False)
