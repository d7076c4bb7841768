"""Count the operations, graphs and waits of a piece of work, by torch's own profiler."""

import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from hermes.work_counts import WorkCounts

# What attention ran as, in both passes: torch's operations, and kernels of any maker.
ATTENTION = re.compile(r"attention|attn|attend|flash|fmha", re.IGNORECASE)
CALLERS = re.compile(r"^autograd::|Backward\d+$|^aten::scaled_dot_product_attention$")
# Operations that are a whole forward pass of attention; each may call others of such names.
FUSED = re.compile(
    r"^aten::_scaled_dot_product_(flash_attention(_for_cpu)?|efficient_attention|cudnn_attention"
    r"|fused_attention_overrideable)$"
    r"|^torch_attn::_varlen_attn(_out)?$|^triton_tem_fused_flex_attention_\d+$"
    r"|^hermes_torch::attend_in_blocks$"
)
SYNCHRONIZES = "called a synchronizing CUDA operation"
# What Python calls to read numbers of a tensor.
READS = ("item", "tolist", "cpu", "__float__", "__int__", "__bool__", "__index__")


@contextmanager
def count_waits_for_cuda(reads: Counter[str]) -> Iterator[None]:
    """Count each wait of the host for CUDA, as torch tells them; pass other warnings on."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
    for told in messages:
        if SYNCHRONIZES in str(told.message):
            reads["wait"] += 1
        else:
            warnings.warn_explicit(told.message, told.category, told.filename, told.lineno)


@contextmanager
def count_reads(reads: Counter[str]) -> Iterator[None]:
    """Count what Python reads of tensors: on a CPU none waits, and on CUDA each of them would."""

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(*arguments: Any, **named: Any) -> Any:
            reads[name] += 1
            return original(*arguments, **named)

        return read

    with ExitStack() as stack:
        for name in READS:
            wrapped = wrap(name, getattr(torch.Tensor, name))
            stack.enter_context(mock.patch.object(torch.Tensor, name, wrapped))
        yield


def read_compiler_counts() -> tuple[int, int]:
    """The graphs that this process has compiled so far, and the breaks in them.

    torch has these under a private name alone, in a module that takes seconds to load.
    """
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return 0, 0
    return utils.counters["stats"]["unique_graphs"], sum(utils.counters["graph_break"].values())


def is_attention(name: str) -> bool:
    """Whether an operation or kernel is attention's, and not only calls one that is."""
    return bool(ATTENTION.search(name)) and not CALLERS.search(name)


def count_work(run: Callable[[], object]) -> WorkCounts:
    """Call run() and count what it did; see hermes.work_counts.CountsWork."""
    before = read_compiler_counts()
    reads: Counter[str] = Counter()
    on_cuda = torch.cuda.is_available()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes a line at each start and stop
    profiler = torch.autograd.profiler.profile(use_device="cuda" if on_cuda else None)
    with count_waits_for_cuda(reads) if on_cuda else count_reads(reads), profiler as profile:
        run()
    graphs, breaks = read_compiler_counts()
    operations = {event.key: event.count for event in profile.key_averages()}
    return WorkCounts(
        operations=operations,
        attention=tuple(sorted(name for name in operations if is_attention(name))),
        fused_attention=sum(n for name, n in operations.items() if FUSED.match(name)),
        graphs=graphs - before[0],
        graph_breaks=breaks - before[1],
        host_reads=reads.total(),
    )
