"""Batches of mixtures of sources by weight; mixture_order says which sample is from which."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import numpy as np

from hermes.data.continued_order import ContinuedOrder, Order
from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.mixture_blocks import AS_DRAWN, Phase
from hermes.data.mixture_order import MixtureOrder
from hermes.data.mixture_sources import WeightedSource, parse_mixture, strip_weights
from hermes.data.order import Cursor
from hermes.data.text_dataset import TextDataset, make_text_batch
from hermes.formatting import format_count
from hermes.interface import Batch

__all__ = ["MixtureDataset", "Phase", "WeightedSource", "parse_mixture", "strip_weights"]

NO_SOURCE = -1  # of a row without a sample


class MixtureDataset:
    """Batches of windows of several datasets of text, each with its share of the samples.

    An epoch has as many samples as all sources have windows; a source is taken as often as its
    share says, in an order of its own each time. train and held_out: numbers of windows, of all
    sources. shares: of the run's first samples; later: what they are from other samples on.
    numbering: as in MixtureOrder.
    """

    def __init__(
        self,
        datasets: Sequence[TextDataset],
        shares: Sequence[float],
        later: Sequence[Phase] = (),
        numbering: int = AS_DRAWN,
    ):
        self.datasets, self.shares = tuple(datasets), tuple(shares)
        self.seed, self.seq_len = datasets[0].seed, datasets[0].seq_len
        self.train = range(sum(len(one.train) for one in datasets))
        self.held_out = range(sum(len(one.held_out) for one in datasets))
        self.phases = (Phase(0, self.shares), *later)
        sizes = [len(one.train) for one in datasets]
        self.order: Order = MixtureOrder(self.seed, self.phases, sizes, numbering)

    def continue_with(self, phases: Sequence[Phase]) -> Self:
        """The dataset of a run that went back, and on with these phases."""
        continued = copy(self)
        continued.order = ContinuedOrder(self.order, phases)
        return continued

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
        size = len(self.train)
        positions = cursor.count_samples(size) + np.arange(samples, dtype=np.int64)
        source, window, _ = self.order.find_windows(positions)
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        rows = np.where(layout.real, layout.rows, 0)
        source, window = source[rows], window[rows]  # (A, B)
        windows = np.empty((*rows.shape, self.seq_len + 1), np.int32)
        for index, dataset in enumerate(self.datasets):
            here = source == index
            windows[here] = dataset.read_windows(window[here])
        batch = make_text_batch(windows, layout, samples, self.datasets[0].mask_id)
        if len(self.datasets) > 1:
            own = np.where(layout.real, source, NO_SOURCE).astype(np.int32)
            batch = replace(batch, sources=own)
        return batch, cursor.advance(samples, size)

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out window of every source once."""
        for dataset in self.datasets:
            yield from dataset.iterate_validation(micro_batch, rank=rank, world_size=world_size)

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets of all sources."""
        return sum(one.count_validation_bytes(count_bytes) for one in self.datasets)

    def describe_epochs(self, names: Sequence[str], samples: int, per_step: int = 1) -> list[str]:
        """Sentences about how often each source is taken in a run of `samples` samples.

        per_step: samples of a step.
        """
        said = []
        counts = self.order.count_source_samples(samples)
        for index, (name, dataset) in enumerate(zip(names, self.datasets, strict=True)):
            share = f"{self.shares[index]:.1%} of the samples"
            for phase in self.phases[1:]:
                share += f", {phase.shares[index]:.1%} from step {phase.start // per_step:,} on"
            size = len(dataset.train)
            said.append(
                f"{name}: {share}, {counts[index] / size:.2f} epochs of its "
                f"{format_count(size, 'sequences')}"
            )
        if self.phases[-1].start >= samples > 0:
            step = self.phases[-1].start // per_step
            said.append(
                f"the weights from step {step:,} on are not reached: the run has "
                f"{format_count(-(-samples // per_step), 'steps')}"
            )
        return said
