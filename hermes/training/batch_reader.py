"""Draws the batch of each step, the next one in a thread while this one is computed."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hermes.data import Cursor
from hermes.data.dataset import Dataset
from hermes.interface import Batch

__all__ = ["BatchReader", "BatchShape"]


@dataclass(frozen=True)
class BatchShape:
    """How a step's samples are split: as the arguments of `Dataset.draw_batch`."""

    micro_batch: int
    accum: int
    rank: int = 0
    world_size: int = 1


class BatchReader:
    """Draws batches, a `with` block that ends its thread.

    A batch is a function of the cursor and the number of samples, so one that was drawn ahead is
    the same as one drawn when it is needed; where another is needed, it is drawn then.
    """

    def __init__(self, dataset: Dataset, shape: BatchShape):
        self._dataset, self._shape = dataset, shape
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[Cursor, int, Future[tuple[Batch, Cursor]]] | None = None

    def draw(self, cursor: Cursor, samples: int) -> tuple[Batch, Cursor]:
        """Draw the next `samples` samples. -> batch, next cursor. Raises what the dataset does."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            drawn = ahead[2].result() if ahead[:2] == (cursor, samples) else None
            if drawn is not None:
                return drawn
            ahead[2].cancel()
        return self._draw(cursor, samples)

    def draw_ahead(self, cursor: Cursor, samples: int) -> None:
        """Begin to draw what the next `draw` will ask for."""
        self._ahead = (cursor, samples, self._thread.submit(self._draw, cursor, samples))

    def _draw(self, cursor: Cursor, samples: int) -> tuple[Batch, Cursor]:
        return self._dataset.draw_batch(
            cursor,
            samples=samples,
            micro_batch=self._shape.micro_batch,
            accum=self._shape.accum,
            rank=self._shape.rank,
            world_size=self._shape.world_size,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
