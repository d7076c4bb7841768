"""The processes of a run once more, for a thread that saves while another one trains.

Collectives of one group must come in one order, which two threads would mix up. These go through
main memory by gloo, so the device has no part in them.
"""

import datetime
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor as Array

from hermes.distributed.process_group import RankInfo

__all__ = ["SideGroup"]


class SideGroup:
    """A gloo group of all processes; making it is a collective.

    A process that waits for others' numbers or rows gives up after rank_info.first_timeout seconds:
    between two of them rank 0 writes to a disk.
    """

    def __init__(self, rank_info: RankInfo):
        self._rank = rank_info.rank
        limit = datetime.timedelta(seconds=rank_info.first_timeout)
        self._group = dist.new_group(backend="gloo", timeout=limit)

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum each number over all processes, in float64."""
        sums = torch.tensor(list(numbers), dtype=torch.float64)
        dist.all_reduce(sums, group=self._group)
        return sums.tolist()

    def gather_rows(self, local: Array, rows: int, holders: int) -> Array:
        """The whole of a matrix in process 0, in the others their own rows of it.

        It is split over the first `holders` processes, as torch.chunk splits `rows`. All of them
        call this together; (n, ...) -> (rows, ...)
        """
        share = -(-rows // holders)
        if self._rank:
            if self._rank < holders and len(local):
                dist.send(local.contiguous(), 0, group=self._group)
            return local
        whole = torch.empty((rows, *local.shape[1:]), dtype=local.dtype)
        whole[: len(local)] = local
        for rank in range(1, holders):
            part = whole[rank * share : (rank + 1) * share]
            if len(part):
                dist.recv(part, rank, group=self._group)
        return whole
