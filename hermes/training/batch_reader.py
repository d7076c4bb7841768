"""Draws the batch of each step, the next one in a thread while this one is computed."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hermes.data import Cursor
from hermes.data.dataset import Dataset
from hermes.interface import Batch
from hermes.recipe import Recipe
from hermes.training.schedule import count_step_samples

__all__ = ["BatchReader", "BatchShape", "StepSize", "find_step_size", "split_sequences"]


@dataclass(frozen=True)
class BatchShape:
    """How a step's samples are split: as the arguments of `Dataset.draw_batch`."""

    accum: int
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class StepSize:
    """What a step takes. parts: the equal parts that each of its sequences is split into."""

    samples: int
    micro_batch: int
    parts: int = 1


def find_step_size(
    recipe: Recipe, size: int, world_size: int, cursor: Cursor, step: int
) -> StepSize:
    """What the step that follows `step` steps takes. size: samples of an epoch."""
    samples = count_step_samples(recipe, cursor, size, world_size, step)
    parts = recipe.seq_len // recipe.find_seq_len(step)
    return StepSize(samples, recipe.find_batch_size(step), parts)


def split_sequences(batch: Batch, parts: int) -> Batch:
    """The batch whose every sequence is `parts` sequences, one after the other, of fewer tokens.

    (A, B, T) -> (A, B parts, T / parts). Row b of n is rows b parts to b parts + parts - 1, also in
    the numbers that key dropout.
    """
    if parts == 1:
        return batch
    accum, rows, length = batch.tokens.shape

    def split(tokens: NDArray[Any]) -> NDArray[Any]:
        return tokens.reshape(accum, rows * parts, length // parts)

    numbers = (batch.rows[:, :, None] * parts + np.arange(parts)).astype(np.uint32)
    sources = batch.sources
    return replace(
        batch,
        tokens=split(batch.tokens),
        targets=split(batch.targets),
        rows=numbers.reshape(accum, rows * parts),
        segments=None if batch.segments is None else split(batch.segments),
        weights=None if batch.weights is None else split(batch.weights),
        sources=None if sources is None else np.repeat(sources, parts, axis=1),
    )


class BatchReader:
    """Draws batches, a `with` block that ends its thread.

    A batch is a function of the cursor and the number of samples, so one that was drawn ahead is
    the same as one drawn when it is needed; where another is needed, it is drawn then.
    """

    def __init__(self, dataset: Dataset, shape: BatchShape):
        self._dataset, self._shape = dataset, shape
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[Cursor, StepSize, Future[tuple[Batch, Cursor]]] | None = None

    def use_dataset(self, dataset: Dataset) -> None:
        """Draw from a dataset from here on, and nothing that was drawn ahead."""
        self._dataset = dataset
        if self._ahead is not None:
            self._ahead[2].cancel()
        self._ahead = None

    def draw(self, cursor: Cursor, size: StepSize) -> tuple[Batch, Cursor]:
        """Draw the next samples. -> batch, next cursor. Raises what the dataset does."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            drawn = ahead[2].result() if ahead[:2] == (cursor, size) else None
            if drawn is not None:
                return drawn
            ahead[2].cancel()
        return self._draw(cursor, size)

    def draw_ahead(self, cursor: Cursor, size: StepSize) -> None:
        """Begin to draw what the next `draw` will ask for."""
        self._ahead = (cursor, size, self._thread.submit(self._draw, cursor, size))

    def _draw(self, cursor: Cursor, size: StepSize) -> tuple[Batch, Cursor]:
        batch, after = self._dataset.draw_batch(
            cursor,
            samples=size.samples,
            micro_batch=size.micro_batch,
            accum=self._shape.accum,
            rank=self._shape.rank,
            world_size=self._shape.world_size,
        )
        return split_sequences(batch, size.parts), after

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
