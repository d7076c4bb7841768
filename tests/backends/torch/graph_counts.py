"""What a compiled step moves with CUDA's attention kernels, and without: see specs/backend.md.

python -m tests.backends.torch.graph_counts
"""

import dataclasses

import pytest

from hermes_torch.fused_attention import NO_KERNELS
from tests.backends.support import make_learner, make_spec
from tests.backends.torch.attention_support import (
    Graphs,
    make_packed_batch,
    take_cuda_kernels,
    without_documents,
)
from tests.backends.torch.test_fused_attention import COMPILED, COUNTED, PLAIN

T = 150


def count(name, kernels, checkpoints):
    """Graphs of both passes, bytes of (T, T) tensors in them, and products with weights."""
    change, has_documents, _ = COUNTED[name]
    with pytest.MonkeyPatch.context() as patch:
        take_cuda_kernels(patch, kernels)
        graphs = Graphs(patch)
        model = make_spec(layers=1, attention=dataclasses.replace(PLAIN, **change))
        batch = make_packed_batch(T=T)
        batch = batch if has_documents else without_documents(batch)
        options = dataclasses.replace(COMPILED, grad_checkpoint=checkpoints)
        model = dataclasses.replace(model, max_seq_len=T)
        make_learner("torch", model, options=options).grads(batch)
        passes = len(graphs.forward) + len(graphs.backward)
        return passes, graphs.count_squares(T), graphs.count("aten.mm")


def main():
    for name, (_, _, kernels) in COUNTED.items():
        for checkpoints in (False, True):
            rows = [count(name, one, checkpoints) for one in (NO_KERNELS, kernels)]
            print(name, "checkpointed" if checkpoints else "", *rows, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
