"""A CPU that takes CUDA's attention kernels, and graphs of what a compiled step moves.

FlexAttention's own reference computes both passes on a CPU; only its check of the device says no.
The kernel of variable lengths has no reference, so one is written here from its documentation.
"""

import dataclasses
import math

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.nn.attention import flex_attention as flex_module
from torch.nn.attention import varlen as varlen_module
from torch.utils._python_dispatch import TorchDispatchMode

from hermes.interface import Batch
from hermes_torch import fused_attention
from hermes_torch import learner as learner_module
from hermes_torch.fused_attention import Kernels
from tests.backends.support import make_batch


def iterate_documents(q, k, v, boundaries, scale, window):
    """Each document's span, its q, k and v, (H, n, D), and its weights, (H, n, n)."""
    left, right = window
    for begin, end in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True):
        a, b, c = (x[begin:end].transpose(0, 1).float() for x in (q, k, v))
        groups = len(a) // len(b)
        b, c = b.repeat_interleave(groups, 0), c.repeat_interleave(groups, 0)
        i = torch.arange(end - begin)
        ahead = i[:, None] - i
        allowed = (left < 0) | (ahead <= left)
        allowed = allowed & ((right < 0) | (-ahead <= right))
        scores = (scale * a @ b.mT).masked_fill(~allowed, -math.inf)
        yield slice(begin, end), a, b, c, torch.softmax(scores, -1)


def _forward(q, k, v, cu_q, cu_k, max_q, max_k, is_causal, scale, window, gqa, *_):
    assert is_causal == (window == [-1, 0])
    assert gqa == (q.shape[1] != k.shape[1])
    y = torch.empty_like(q)
    for span, _, _, values, p in iterate_documents(q, k, v, cu_q, scale, window):
        y[span] = (p @ values).transpose(0, 1).to(q.dtype)
    return y, torch.zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)


def _backward(
    grad, q, k, v, out, lse, cu_q, cu_k, max_q, max_k, is_causal, rng, scale=None, window=None
):
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    for span, a, b, c, p in iterate_documents(q, k, v, cu_q, scale, window):
        g = grad[span].transpose(0, 1).float()
        dp = g @ c.mT
        ds = scale * p * (dp - (dp * p).sum(-1, keepdim=True))
        dq[span] = (ds @ b).transpose(0, 1).to(q.dtype)
        for to, x in ((dk, ds.mT @ a), (dv, p.mT @ g)):
            to[span] = x.unflatten(0, (to.shape[1], -1)).sum(1).transpose(0, 1).to(q.dtype)
    return dq, dk, dv


def take_cuda_kernels(monkeypatch, kernels):
    """Let models that are built from now on use these kernels, on a CPU."""
    torch._dynamo.reset()  # or a second number in the place of a first becomes a variable
    monkeypatch.setattr("hermes_torch.runtime.find_kernels", lambda *_: kernels)
    monkeypatch.setattr(flex_module, "_validate_device", lambda *_: None)
    monkeypatch.setattr(fused_attention, "_compile_flex", lambda: flex_module.flex_attention)
    if kernels.varlen:
        varlen_module._varlen_attn.register_kernel("cpu")(_forward)
        varlen_module._varlen_attn_backward.register_kernel("cpu")(_backward)


FLEX, VARLEN = Kernels(flex=True), Kernels(varlen=True)


def make_packed_batch(A=1, B=2, T=150, seed=0):
    """Rows of several documents, of different lengths."""
    batch = make_batch(A=A, B=B, T=T, seed=seed)
    starts = torch.rand(A, B, T, generator=torch.manual_seed(seed)) < 0.05
    starts[:, :, 0] = False
    segments = starts.cumsum(-1).int().numpy()
    return dataclasses.replace(batch, segments=segments)


def without_documents(batch: Batch) -> Batch:
    """The same rows, each one document."""
    return dataclasses.replace(batch, segments=None)


class Graphs:
    """The graphs that torch.compile makes of a learner's passes, run as they are."""

    def __init__(self, monkeypatch):
        self.forward, self.backward = [], []
        torch._dynamo.reset()
        made = aot_autograd(
            fw_compiler=self._keep(self.forward), bw_compiler=self._keep(self.backward)
        )
        monkeypatch.setattr(
            learner_module,
            "compile_function",
            lambda f: torch.compile(f, dynamic=False, backend=made),
        )

    def _keep(self, graphs):
        def keep(graph, example):
            graphs.append(graph)
            return make_boxed_func(graph.forward)

        return keep

    def count(self, name):
        """Operations whose name has `name`, in both passes."""
        graphs = self.forward + self.backward
        return sum(name in str(node.target) for graph in graphs for node in graph.graph.nodes)

    def count_squares(self, T):
        """Bytes of tensors whose last two axes are (T, T), in both passes."""
        total = 0
        for graph in self.forward + self.backward:
            for node in graph.graph.nodes:
                value = node.meta.get("val")
                if isinstance(value, torch.Tensor) and tuple(value.shape[-2:]) == (T, T):
                    total += value.numel() * value.element_size()
        return total


class CountProducts(TorchDispatchMode):
    """How many products with weights and calls of attention are computed."""

    def __init__(self):
        super().__init__()
        self.products = self.attention = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.products += name.startswith(("aten.mm.", "aten.addmm."))
        self.attention += "dot_product" in name and "backward" not in name
        return function(*args, **(kwargs or {}))
