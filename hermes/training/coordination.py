"""What a run of several processes does beside training: agree, share what one of them made, follow.

One process, rank 0, writes the run's folder; the others hold the same state and write nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hermes.checkpoint import name_step_folder
from hermes.distributed.process_group import ProcessGroup
from hermes.errors import HermesError, PeerLost
from hermes.interface import (
    Array,
    Batch,
    LazyTensors,
    Learner,
    LossCounts,
    StepReport,
    Tensors,
    TrainState,
)
from hermes.training.events import Evaluation, Pace, Position, Update

__all__ = [
    "NullRecorder",
    "RankCoordinator",
    "average_measures",
    "count_targets",
    "gather_for_rank0",
    "serve_gathers",
]

COMPARED_EVERY = 100  # updates between two comparisons of all processes' weights


def count_targets(process_group: ProcessGroup, batch: Batch) -> Batch:
    """The batch with the counts of the whole update, asked of the others if it has none."""
    if process_group.rank_info.world_size == 1 or batch.global_counts is not None:
        return batch
    mine = (batch.num_terms, batch.num_targets)
    return replace(batch, global_counts=LossCounts(*map(int, process_group.all_reduce_sum(mine))))


def average_measures(
    process_group: ProcessGroup,
    measure: Callable[[Batch, StepReport], Mapping[str, float]],
    batch: Batch,
    report: StepReport,
) -> Mapping[str, float]:
    """What is measured of an update, its mean over all processes by what each had of it."""
    if process_group.rank_info.world_size == 1:
        return measure(batch, report)
    here = dict(measure(batch, report)) if batch.num_terms else {}
    # Who has no pair of this update knows no names either.
    told = process_group.all_gather_text(json.dumps([*here]))
    names: list[str] = max((json.loads(text) for text in told), key=len)
    weighted = [here.get(name, 0.0) * batch.num_terms for name in names]
    *sums, count = process_group.all_reduce_sum([*weighted, batch.num_terms])
    return {name: value / count for name, value in zip(names, sums, strict=True)}


class RankCoordinator:
    """`stop`, asked of all processes at once, so that all stop after the same update.

    On the way it compares the processes' weights every COMPARED_EVERY updates, and adds up how long
    each process was busy with its own share. step: updates made before. saved: the checkpoint of
    that step, if any. Raises HermesError with the tensor that differs.
    """

    def __init__(
        self,
        process_group: ProcessGroup,
        learner: Learner,
        stop: Callable[[], bool],
        step: int = 0,
        saved: Path | None = None,
    ):
        self._processes, self._learner, self._stop = process_group, learner, stop
        self._updates, self._step, self._saved = 0, step, saved
        self._same_at: int | None = None
        self._busy = [0.0] * process_group.rank_info.world_size

    def __call__(self) -> bool:
        """Whether any process was asked to stop."""
        stops = self._processes.all_reduce_max(float(self._stop())) > 0
        self._processes.begin()
        return stops

    def after_update(self) -> bool:
        """The same, after an update."""
        if self._updates == 0:
            self._processes.mark_first_step_done()
        self._updates += 1
        self._step += 1
        if self._updates % COMPARED_EVERY == 1:
            self.compare()
        rank_info = self._processes.rank_info
        told = [0.0] * (1 + rank_info.world_size)
        told[0], told[1 + rank_info.rank] = float(self._stop()), self._processes.busy_seconds()
        stops, *busy = self._processes.all_reduce_sum(told)
        self._busy = [a + b for a, b in zip(self._busy, busy, strict=True)]
        self._processes.begin()
        return stops > 0

    def pace(self) -> Pace | None:
        """Who was slowest since this was last asked; None of one process."""
        busy, self._busy = self._busy, [0.0] * len(self._busy)
        if len(busy) == 1 or not any(busy):
            return None
        slowest = max(range(len(busy)), key=lambda rank: busy[rank])
        return Pace(slowest, round(busy[slowest] * len(busy) / sum(busy), 3))

    def saves(self, save: Callable[[Position], Path]) -> Callable[[Position], Path]:
        """`save`, after a comparison: no checkpoint is made by processes that differ."""

        def compared(at: Position) -> Path:
            self.compare()
            self._saved = save(at)
            return self._saved

        return compared

    def compare(self) -> None:
        """Compare the bits of all processes' weights and moments, once after an update."""
        if self._processes.rank_info.world_size == 1 or self._same_at == self._step:
            return
        mine = json.dumps(dict(self._learner.digests()))
        found = [json.loads(text) for text in self._processes.all_gather_text(mine)]
        for rank, other in enumerate(found):
            for name, bits in found[0].items():
                if other.get(name) != bits:
                    raise HermesError(
                        f"tensor {name!r} is not the same in rank 0 and rank {rank} after update "
                        f"{self._step}, so the run stopped; {self._before()}"
                    ).mark_shared()
        self._same_at = self._step

    def _before(self) -> str:
        """When all were the same, what was saved then, and what may be at fault."""
        same, fault = "they were never the same", "a device or its memory may be at fault"
        if self._same_at is not None:
            same = f"all were the same after update {self._same_at}"
        elif self._updates == 1:
            fault = f"they began with other weights, or {fault}"
        if self._saved is None:
            return f"{same}, and nothing was saved; {fault}"
        return f"{same}, and {self._saved.name} is from before; {fault}: go on with --resume"


@contextmanager
def gather_for_rank0(process_group: ProcessGroup, state: TrainState) -> Iterator[TrainState]:
    """The state of a learner that is split, to be read in this process while the others
    `serve_gathers`.

    Each tensor is gathered when it is read, in any order, and kept by nobody.
    """
    weights, trained = len(state.params), len(state.exp_avg)
    params = _announce_reads(process_group, state.params, 1)
    first = _announce_reads(process_group, state.exp_avg, 1 + weights)
    second = _announce_reads(process_group, state.exp_avg_sq, 1 + weights + trained)
    try:
        yield TrainState(params, first, second, state.step)
    except PeerLost:
        raise
    except BaseException:
        process_group.all_reduce_sum([0])
        raise
    process_group.all_reduce_sum([0])


def serve_gathers(process_group: ProcessGroup, state: TrainState) -> None:
    """Take part in every reading of the process that leads, until it is done."""
    parts = (state.params, state.exp_avg, state.exp_avg_sq)
    tensors = [(held, name) for held in parts for name in held]
    while number := int(process_group.all_reduce_sum([0])[0]):
        held, name = tensors[number - 1]
        held[name]


def _announce_reads(process_group: ProcessGroup, held: Tensors, start: int) -> Tensors:
    """The tensors, each of which is named to the followers before it is read."""
    numbers = {name: number for number, name in enumerate(held, start)}

    def read(name: str) -> Array:
        process_group.all_reduce_sum([numbers[name]])
        return held[name]

    return LazyTensors(held, read)


@dataclass(frozen=True)
class NullRecorder:
    """Stands where rank 0 writes the run's lines and checkpoints, and writes nothing.

    split: the learner, where rank 0 needs this process to read it.
    """

    output: Path
    process_group: ProcessGroup
    split: Learner | None = None

    def record(self, event: Update | Evaluation) -> None:
        """Rank 0 writes it."""

    def save(self, at: Position) -> Path:
        """Where rank 0 saves."""
        if self.split is not None:
            serve_gathers(self.process_group, self.split.state())
        return self.output / name_step_folder(at.step)

    def is_saved(self) -> bool:
        """Rank 0 knows."""
        return True

    def wait(self) -> None:
        """Nothing is being written here."""
