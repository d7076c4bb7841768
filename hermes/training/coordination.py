"""What several ranks of a run do besides computing: agree when to stop, compare weights, gather.

Rank 0 alone writes the run's folder. The other ranks hold the same state and write nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Self

from hermes.checkpoint import copy_state, name_step_folder
from hermes.distributed.process_group import (
    HasSideGroup,
    ProcessGroup,
    RankInfo,
    SumsNumbers,
    WaitsForCompilers,
)
from hermes.errors import HermesError, PeerLost
from hermes.interface import (
    Array,
    Batch,
    LazyTensors,
    Learner,
    LossCounts,
    Tensors,
    TrainState,
)
from hermes.numerics.gradient_noise import RankShare
from hermes.training.events import Pace, Position, Recorded, RolledBack, Sample
from hermes.training.save_timer import SaveTimer
from hermes.training.training_data import Mean, Measures

__all__ = ["NullRecorder", "RankCoordinator", "gather_for_rank0", "serve_gathers", "watch_saving"]

COMPARE_EVERY = 100  # steps between two comparisons of all ranks' weights


class RankCoordinator:
    """What the training loop asks of all ranks at once; with one process each answer is its own.

    Every method is called by all ranks in the same order. stop: whether this process was asked to
    stop. step: steps done before. last_saved: the checkpoint of that step, None where there is
    none, for the sentence about weights that differ. save_timer: this process's clock; after a
    step, should_save says whether it is time to save by any rank's.
    """

    def __init__(
        self,
        process_group: ProcessGroup,
        learner: Learner,
        stop: Callable[[], bool],
        step: int = 0,
        last_saved: Path | None = None,
        save_timer: SaveTimer | None = None,
    ):
        self.last_saved, self.should_save = last_saved, False
        self._save_timer = save_timer or SaveTimer()
        self._process_group, self._stop = process_group, stop
        self._learner: Learner | None = learner
        self._steps_here, self._step = 0, step
        self._same_at: int | None = None
        self._lengths: set[int] = set()  # of rows of the batches so far
        self._evaluated_lengths: set[int] | None = None  # those at the last evaluation
        self._busy = [0.0] * process_group.rank_info.world_size

    @property
    def rank_info(self) -> RankInfo:
        """This process's rank."""
        return self._process_group.rank_info

    def add_global_counts(self, batch: Batch) -> Batch:
        """The batch with the counts of all ranks, which its loss is divided by."""
        self._lengths.add(batch.tokens.shape[-1])
        if self.rank_info.world_size == 1 or batch.global_counts is not None:
            return batch
        own = batch.own_counts
        parts = (own.terms, own.targets, own.weight or 0.0)
        terms, targets, weight = self._process_group.all_reduce_sum(parts)
        weights = None if own.weight is None else float(weight)
        return replace(batch, global_counts=LossCounts(int(terms), int(targets), weights))

    def use_learner(self, learner: Learner | None, step: int) -> None:
        """Compare another learner's weights from now on, which is at `step`; None lets go."""
        self._learner, self._step, self._same_at = learner, step, None

    def should_stop(self) -> bool:
        """Whether any rank was asked to stop; for use between steps, as during an evaluation."""
        stops = self._process_group.all_reduce_max(float(self._stop())) > 0
        self._process_group.begin()
        return stops

    def expect_evaluation(self) -> AbstractContextManager[None]:
        """A context for an evaluation, in which other ranks may compile where that can be.

        That is in the first one, and where batches of another length came since the last: a rank
        evaluates compiled at lengths that training has had.
        """
        may_compile = self._lengths != self._evaluated_lengths
        self._evaluated_lengths = set(self._lengths)
        if may_compile and isinstance(self._process_group, WaitsForCompilers):
            return self._process_group.allow_compiling()
        return nullcontext()

    def decide(self, *, failed: bool = False) -> str:
        """What all ranks do between two batches of a round of tasks: 'go on', 'stop' or 'fail'.

        failed: this rank cannot go on. One that failed outweighs one that was asked to stop.
        """
        own = 2.0 if failed else float(self._stop())
        found = self._process_group.all_reduce_max(own)
        self._process_group.begin()
        return ("go on", "stop", "fail")[int(found)]

    def should_stop_after_step(self) -> bool:
        """Whether any rank was asked to stop; called once after every step.

        Adds up each rank's busy time and compares the weights every COMPARE_EVERY steps. Raises
        HermesError with the tensor that differs.
        """
        if self._steps_here == 0:
            self._process_group.mark_first_step_done()
            self.rank_info.on_first_step()
        self._steps_here += 1
        self._step += 1
        if self._steps_here % COMPARE_EVERY == 1:
            self.require_same_weights()
        own = [0.0] * self.rank_info.world_size
        own[self.rank_info.rank] = self._process_group.busy_seconds()
        votes = (float(self._stop()), float(self._save_timer.is_due()))
        stops, saves, *busy = self._process_group.all_reduce_sum([*votes, *own])
        self.should_save = saves > 0
        self._busy = [a + b for a, b in zip(self._busy, busy, strict=True)]
        self._process_group.begin()
        return stops > 0

    def mark_saved(self, path: Path) -> None:
        """Take note of a checkpoint."""
        self.last_saved = path
        self._save_timer.restart()

    def measure_pace(self) -> Pace | None:
        """The slowest rank since the last call; None of one process."""
        busy, self._busy = self._busy, [0.0] * len(self._busy)
        if len(busy) == 1 or not any(busy):
            return None
        slowest = max(range(len(busy)), key=lambda rank: busy[rank])
        return Pace(slowest, round(busy[slowest] * len(busy) / sum(busy), 3))

    def find_largest(self, value: int) -> int:
        """The largest of all ranks' values."""
        return int(self._process_group.all_reduce_max(float(value)))

    def add_noise_shares(self, shares: Sequence[RankShare]) -> list[RankShare]:
        """Each share with those of all other ranks, in one message."""
        sums = self._process_group.all_reduce_sum([x for one in shares for x in astuple(one)])
        return [RankShare(*sums[at : at + 4]) for at in range(0, len(sums), 4)]

    def average_measures(self, measures: Measures, weight: float) -> Mapping[str, float]:
        """The mean of each number over all ranks, by its own weight, or `weight` where it has none.

        A rank may lack names of what it had none of. Names without any weight are left out.
        """
        if self.rank_info.world_size == 1:
            return {
                name: value.total / value.weight if isinstance(value, Mean) else value
                for name, value in measures.items()
            }
        told = self._process_group.all_gather_text(json.dumps([*measures]))
        names = [*dict.fromkeys(name for text in told for name in json.loads(text))]
        own = [
            value if isinstance(value, Mean) else Mean(value * weight, weight)
            for value in (measures.get(name, Mean(0.0, 0.0)) for name in names)
        ]
        sums = self._process_group.all_reduce_sum([number for mean in own for number in mean])
        means = zip(names, sums[::2], sums[1::2], strict=True)
        return {name: total / count for name, total, count in means if count}

    def require_same_weights(self) -> None:
        """Compare the bits of all ranks' weights and moments, at most once after each step.

        Raises HermesError with the tensor that differs, in all ranks.
        """
        if self.rank_info.world_size == 1 or self._same_at == self._step:
            return
        assert self._learner is not None, "a run that rolls back compares nothing meanwhile"
        own = json.dumps(dict(self._learner.digests()))
        digests = [json.loads(text) for text in self._process_group.all_gather_text(own)]
        for rank, other in enumerate(digests):
            for name, bits in digests[0].items():
                if other.get(name) != bits:
                    raise HermesError(
                        f"tensor {name!r} is not the same in rank 0 and rank {rank} after step "
                        f"{self._step}, so the run stopped; {self._describe_last_match()}"
                    ).mark_shared()
        self._same_at = self._step

    def _describe_last_match(self) -> str:
        """When all ranks were last the same, what was saved then, and what may be at fault."""
        same, fault = "they were never the same", "a device or its memory may be at fault"
        if self._same_at is not None:
            same = f"all were the same after step {self._same_at}"
        elif self._steps_here == 1:
            fault = f"they began with different weights, or {fault}"
        if self.last_saved is None:
            return f"{same}, and nothing was saved; {fault}"
        return f"{same}, and {self.last_saved.name} is from before; {fault}: resume with --resume"


def watch_saving(process_group: ProcessGroup) -> AbstractContextManager[None]:
    """A context in which a rank that was lost while a checkpoint was gathered raises PeerLost."""
    if not isinstance(process_group, HasSideGroup):
        return nullcontext()
    return process_group.watch()


@contextmanager
def gather_for_rank0(process_group: SumsNumbers, state: TrainState) -> Iterator[TrainState]:
    """The state of a sharded learner, to be read in rank 0 while the others `serve_gathers`.

    Each tensor is gathered when it is read, in any order, and not kept.
    """
    read, start = [], 1
    for held in (state.params, *state.slots.values()):
        read.append(_announce_reads(process_group, held, start))
        start += len(held)
    params, *slots = read
    try:
        named = dict(zip(state.slots, slots, strict=True))
        yield TrainState.from_slots(params, named, state.step, state.loss_scale)
    except PeerLost:
        raise
    except BaseException:
        process_group.all_reduce_sum([0])
        raise
    process_group.all_reduce_sum([0])


def serve_gathers(process_group: SumsNumbers, state: TrainState) -> None:
    """Take part in gathering each tensor that rank 0 reads, until it is done."""
    parts = (state.params, *state.slots.values())
    tensors = [(held, name) for held in parts for name in held]
    while number := int(process_group.all_reduce_sum([0])[0]):
        held, name = tensors[number - 1]
        held[name]


def _announce_reads(process_group: SumsNumbers, held: Tensors, start: int) -> Tensors:
    """The tensors; the other ranks are told which one is about to be read, by its number."""
    numbers = {name: number for number, name in enumerate(held, start)}

    def read(name: str) -> Array:
        process_group.all_reduce_sum([numbers[name]])
        return held[name]

    return LazyTensors(held, read)


@dataclass
class NullRecorder:
    """The recorder of every rank but 0: writes nothing.

    learner: whose tensors rank 0 gathers with this rank, where they are sharded.
    """

    output: Path
    process_group: ProcessGroup
    learner: Learner | None = None
    is_sharded: bool = False
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "gathers"))
    _pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Help rank 0 to its end: a checkpoint that has begun is to be whole."""
        self._thread.shutdown()

    def record(self, event: Recorded) -> None:
        """Nothing to write: rank 0 does. Raises the error of a gathering that failed."""
        self.is_saved()

    def record_sample(self, sample: Sample) -> None:
        """Nothing: rank 0 writes the sample."""

    def save(
        self, position: Position, losses: tuple[float, ...] = (), noise: tuple[float, ...] = ()
    ) -> Path:
        """Help rank 0 to gather the tensors, in a thread. Returns where it saves."""
        if self.is_sharded and self.learner is not None:
            assert isinstance(self.process_group, HasSideGroup), "of a backend that splits a model"
            self.wait()
            state, beside = copy_state(self.learner.state()), self.process_group.open_side_group()
            self._pending = self._thread.submit(serve_gathers, beside, state)
        return self.output / name_step_folder(position.step)

    def use_learner(self, learner: Learner | None) -> None:
        """Gather another learner's tensors from now on."""
        self.learner = learner

    def roll_back(self, event: RolledBack, position: Position) -> None:
        """Nothing: rank 0 writes the files."""

    def is_saved(self) -> bool:
        """Whether rank 0 has all of this rank's tensors. Raises what failed meanwhile."""
        if self._pending and self._pending.done():
            self.wait()
        return self._pending is None

    def wait(self) -> None:
        """Wait until no other rank needs this one's tensors; raise what failed meanwhile."""
        pending, self._pending = self._pending, None
        if pending:
            with watch_saving(self.process_group):
                pending.result()
