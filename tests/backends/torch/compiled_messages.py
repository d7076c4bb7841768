"""What a compiled step of a rank is made of where DDP sends many small messages.

Prints a line for each case: graphs of the forward and of the backward pass, and whether the
gradients are those of a step that is not compiled. The rank is alone, and says it is one of two.

    python -m tests.backends.torch.compiled_messages PORT
"""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from hermes.distributed.process_group import RankInfo
from hermes.interface import Options, TrainState, find_backend
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec
from hermes_torch import process_group
from hermes_torch.fused_attention import NO_KERNELS, Kernels
from tests.backends.support import make_spec, make_weights
from tests.backends.torch.attention_support import (
    Graphs,
    make_packed_batch,
    take_cuda_kernels,
    without_documents,
)

T = 20
FIRST_BYTES, MESSAGE_MB = 4000, 0.02
FLEX = Kernels(flex=True)
# What attention has, options, kernels, and whether rows are packed.
CASES = {
    "recomputed": ({}, {"grad_checkpoint": True}, NO_KERNELS, False),
    "dropout, documents, recomputed": ({"dropout": 0.1}, {"grad_checkpoint": True}, FLEX, True),
    "soft cap, selective": ({"softcap": 3.0}, {"selective_checkpoint": True}, FLEX, False),
}


class OneOfTwo:
    """A group of one process, as a learner sees one of two."""

    rank_info = RankInfo(0, 2)

    def __init__(self, group):
        self._group = group

    def __getattr__(self, name):
        return getattr(self._group, name)


def compute_gradients(spec, batch, options, group=None):
    """The gradients of a learner's first step."""
    state = TrainState(make_weights(spec), {}, {}, 0)
    more = () if group is None else (OneOfTwo(group),)
    return find_backend("torch").learner(spec, state, Recipe(), options, *more).grads(batch)[1]


def check_case(group, change, options, kernels, packed):
    """Graphs of both passes, and whether the gradients are the eager ones."""
    attention = AttentionSpec(4, 2, head_dim=16, **change)
    spec = dataclasses.replace(make_spec(attention=attention), max_seq_len=T)
    batch = make_packed_batch(T=T)
    batch = batch if packed else without_documents(batch)
    with pytest.MonkeyPatch.context() as patch:
        expected = compute_gradients(spec, batch, Options("cpu", compile=False))
        take_cuda_kernels(patch, kernels)
        graphs = Graphs(patch)
        compiled = Options("cpu", compile=True, **options)
        found = compute_gradients(spec, batch, compiled, group)
    is_same = all(
        np.linalg.norm(found[name] - grad) < 1e-5 * np.linalg.norm(grad)
        for name, grad in expected.items()
    )
    return len(graphs.forward), len(graphs.backward), is_same


def main():
    group = process_group.join(RankInfo(rendezvous=f"127.0.0.1:{sys.argv[1]}"), "cpu")
    torch.distributed._DEFAULT_FIRST_BUCKET_BYTES = FIRST_BYTES
    process_group.BUCKET_MB = MESSAGE_MB
    for name, case in CASES.items():
        print(name, *check_case(group, *case), sep=": ", flush=True)
    group.close()


if __name__ == "__main__":
    main()
