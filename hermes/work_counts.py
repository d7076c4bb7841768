"""What a piece of work was made of, as the framework that did it counts: no clock is read.

A backend may have `count_work`; the suite's laws of kernels decline one that has not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

__all__ = ["CountsWork", "WorkCounts"]


@dataclass(frozen=True)
class WorkCounts:
    """operations: how often each ran, by the framework's name for it.

    attention: the names of those that attention ran as. fused_attention: how often it ran as one
    operation that keeps no (B, H, T, S), forward passes alone. unfused_reason: why it is written
    out on this device, '' where there is no reason to. graphs: how many were compiled, one for each
    set of shapes. graph_breaks: places where a compiled function left its graph. host_reads: how
    often the host waited for the device to read from it.
    """

    operations: Mapping[str, int] = field(default_factory=dict)
    attention: tuple[str, ...] = ()
    fused_attention: int = 0
    unfused_reason: str = ""
    graphs: int = 0
    graph_breaks: int = 0
    host_reads: int = 0


@runtime_checkable
class CountsWork(Protocol):
    """A backend that counts what its learners and models do."""

    def count_work(self, run: Callable[[], object]) -> WorkCounts:
        """Call run() and count what it did on this backend.

        Learners whose compiling is to be counted are made inside of run().
        """
        ...
