"""Mixtures of sources by weight: which source a run's samples are from.

The samples of a run come in blocks. In each block every source has its share, rounded so that the
shares of all blocks up to any of them are right to within one sample; the order inside a block is a
keyed permutation. Sample p of a run is therefore found from the seed, the weights and p alone, and
so is its number among the samples of its source.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.order import Cursor
from hermes.data.text_dataset import TextDataset, make_text_batch
from hermes.errors import DataError
from hermes.interface import Batch
from hermes.numerics.randomness import permute

__all__ = ["MixtureDataset", "WeightedSource", "choose_sources", "parse_mixture", "strip_weights"]

BLOCK = 4096  # samples
LEAST = 0.001  # share of a source, of which a block then has some
WEIGHTED = re.compile(r"(?P<name>.+):(?P<weight>\d+(\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class WeightedSource:
    """A source and its share of the samples; the shares of all add up to 1."""

    name: str
    share: float


def parse_mixture(names: Sequence[str]) -> tuple[WeightedSource, ...]:
    """Parse 'web:0.7', 'code:0.3' as sources with shares; () where no name has a weight.

    A file that has such a name is a file. Raises DataError where only some have one.
    """
    found = [None if os.path.exists(name) else WEIGHTED.fullmatch(name) for name in names]
    if not any(found):
        return ()
    for name, match in zip(names, found, strict=True):
        if match is None:
            raise DataError(
                f"--data {name} has no weight and others have; give each one, as in {name}:0.5"
            )
    weights = [float(match["weight"]) for match in found if match]
    total = sum(weights)
    sources = []
    for match, weight in zip(found, weights, strict=True):
        assert match is not None, "refused above"
        share = weight / total if total else 0.0
        if share < LEAST:
            raise DataError(
                f"--data {match['name']} has {share:.2g} of all weights; give it at least {LEAST}, "
                "or leave it out"
            )
        sources.append(WeightedSource(match["name"], share))
    return tuple(sources)


def strip_weights(names: Sequence[str]) -> tuple[str, ...]:
    """The names without their weights. Raises DataError as `parse_mixture`."""
    mixture = parse_mixture(names)
    return tuple(source.name for source in mixture) or tuple(names)


def choose_sources(
    seed: int, shares: Sequence[float], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the source of each of a run's samples, and its number in that source. (K,) -> 2 (K,)

    positions: numbers of samples, from the run's first. Every number of a source comes once.
    """
    upper = np.cumsum(np.asarray(shares, np.float64))
    upper[-1] = 1.0
    source, number = np.empty_like(positions), np.empty_like(positions)
    blocks = positions // BLOCK
    for block in np.unique(blocks).tolist():
        here = blocks == block
        rank = permute(seed, f"mixture/{block}", BLOCK, positions[here] % BLOCK)
        before, after = (
            np.floor(upper * float(BLOCK * b) + 0.5).astype(np.int64) for b in (block, block + 1)
        )
        ends = after - before  # of each source's ranks in this block
        chosen = np.searchsorted(ends, rank, side="right")
        taken = np.diff(before, prepend=0)  # by each source, in all blocks before
        source[here] = chosen
        number[here] = taken[chosen] + rank - np.concatenate([[0], ends[:-1]])[chosen]
    return source, number


class MixtureDataset:
    """Batches of windows of several datasets of text, each with its share of the samples.

    An epoch has as many samples as all sources have windows; a source is taken as often as its
    share says, in an order of its own each time. train and held_out: numbers of windows, of all
    sources.
    """

    def __init__(self, datasets: Sequence[TextDataset], shares: Sequence[float]):
        self.datasets, self.shares = tuple(datasets), tuple(shares)
        self.seed, self.seq_len = datasets[0].seed, datasets[0].seq_len
        self.train = range(sum(len(one.train) for one in datasets))
        self.held_out = range(sum(len(one.held_out) for one in datasets))

    def draw_batch(
        self,
        cursor: Cursor,
        *,
        samples: int,
        micro_batch: int,
        accum: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> tuple[Batch, Cursor]:
        """Draw this rank's share of the next `samples` windows, as `TextDataset.draw_batch`."""
        if not 1 <= samples <= micro_batch * accum * world_size:
            raise DataError(
                f"{samples} samples do not fit a step of {micro_batch * accum * world_size} rows"
            )
        size = len(self.train)
        positions = cursor.count_samples(size) + np.arange(samples, dtype=np.int64)
        source, window = self._find_windows(positions)
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        rows = np.where(layout.real, layout.rows, 0)
        source, window = source[rows], window[rows]  # (A, B)
        windows = np.empty((*rows.shape, self.seq_len + 1), np.int32)
        for number, dataset in enumerate(self.datasets):
            here = source == number
            windows[here] = dataset.read_windows(window[here])
        batch = make_text_batch(windows, layout, samples, self.datasets[0].mask_id)
        return batch, cursor.advance(samples, size)

    def _find_windows(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source of each sample and its window there."""
        source, number = choose_sources(self.seed, self.shares, positions)
        window = np.empty_like(number)
        for index, dataset in enumerate(self.datasets):
            size = len(dataset.train)
            epoch, sample = np.divmod(number, size)
            for one in np.unique(epoch[source == index]).tolist():
                here = (source == index) & (epoch == one)
                purpose = f"mixture/{index}/order/{one}"
                window[here] = permute(self.seed, purpose, size, sample[here])
        return source, window

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out window of every source once."""
        for dataset in self.datasets:
            yield from dataset.iterate_validation(micro_batch, rank=rank, world_size=world_size)

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets of all sources."""
        return sum(one.count_validation_bytes(count_bytes) for one in self.datasets)

    def describe_epochs(self, names: Sequence[str], samples: int) -> list[str]:
        """Sentences about how often each source is taken in a run of `samples` samples."""
        return [
            f"{name}: {share:.1%} of the samples, {samples * share / len(dataset.train):.2f} "
            f"epochs of its {len(dataset.train):,} sequences"
            for name, share, dataset in zip(names, self.shares, self.datasets, strict=True)
        ]
