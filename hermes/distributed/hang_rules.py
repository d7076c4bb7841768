"""Which ranks hang before the first step is done, by what all of them say of themselves.

After it a collective that takes longer than the run's limit tells. Before it a rank may have much
to do that the others have not, so they wait much longer, and this decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hermes.distributed.signs_of_work import OTHERS, RANKS, Beat

__all__ = ["HangRules"]

LATE = 2  # ticks without a new word that are no silence: on a busy machine it comes late


@dataclass
class _Seen:
    """What was seen of a rank, in ticks up to now.

    idle: without a sign of work. still: nor did one call compute. waited: for the other ranks, and
    computed nothing. silent: said nothing new.
    """

    beat: Beat | None = None
    idle: int = 0
    still: int = 0
    waited: int = 0
    silent: int = 0

    def add(self, beat: Beat | None, computes: bool) -> None:
        """Take note of a tick. computes: whether the process does, as seen from outside."""
        before, self.beat = self.beat, beat
        if before is None or beat is None:
            self.idle = self.still = self.waited = self.silent = 0
            return
        is_mute = beat.beats == before.beats
        has_sign = beat.signs != before.signs
        is_waiting = beat.waits == RANKS and beat.computed == before.computed
        self.silent = self.silent + 1 if is_mute else 0
        self.idle = 0 if has_sign else self.idle + 1
        # Who says nothing may be in a call that keeps Python's lock; for a tick or two, its word is
        # only late, and the next one tells.
        if has_sign or beat.calls != before.calls or (computes and self.silent > LATE):
            self.still = 0
        elif not (is_mute and computes):
            self.still += 1
        if not is_mute:  # or a word that comes a little after a tick would end a long wait
            self.waited = self.waited + 1 if is_waiting and not has_sign else 0


class HangRules:
    """Fed once a second, by `add`: a clock would go on while this process is stopped.

    limit: seconds in which a rank does nothing. work_limit: seconds in which all wait for each
    other, or one computes or keeps Python's lock while another waits; the same, or longer where
    that may as well be work: a device that computes, or meets the others, looks so. Ranks are named
    by any number, such as that of their process.
    """

    def __init__(self, limit: float, work_limit: float | None = None):
        self._limit, self._seen = limit, dict[int, _Seen]()
        self._work_limit = limit if work_limit is None else work_limit

    def add(self, said: Mapping[int, Beat | None], computes: Mapping[int, bool]) -> None:
        """Take note of what each rank said last, None before its first word or after its last."""
        seen = {rank: self._seen.get(rank, _Seen()) for rank in said}
        self._seen = seen
        for rank, beat in said.items():
            seen[rank].add(beat, computes.get(rank, False))

    def find(self) -> dict[int, str]:
        """Each rank that hangs, and how: what it did, what the others did, and where it is."""
        seen = self._seen
        limit, work_limit = (
            f"for {one:g} s before the first step" for one in (self._limit, self._work_limit)
        )
        waiting = {rank for rank, one in seen.items() if one.waited > self._work_limit}
        if len(waiting) == len(seen) > 1:
            how = f"it waited {work_limit}, as did every other"
            return {rank: self._say(rank, how) for rank in seen}
        still = {rank for rank, one in seen.items() if one.still > self._limit}
        # One that nobody waits for may be at what the others have done, but all cannot.
        has_waiter = any(self._is_waiting(rank) for rank in still)
        found = {rank for rank in still if not self._is_waiting(rank)}
        if found and (has_waiter or len(still) == len(seen)):
            others = " while others waited" if has_waiter else ", nor did any other"
            return {rank: self._say(rank, f"it did nothing {limit}{others}") for rank in found}
        if not waiting:
            return {}
        how = f"one call computed {work_limit} while others waited"
        # Who waits is in no call of its own, whatever its threads do: MLX's ring polls, which looks
        # like a call in a second in which a busy machine let it say nothing.
        called = [rank for rank in seen if rank not in waiting and self._is_in_call(rank)]
        return {rank: self._say(rank, how) for rank in called}

    def find_silent(self) -> list[int]:
        """Each rank that says nothing more for work_limit while another waits as long."""
        if not any(one.waited > self._work_limit for one in self._seen.values()):
            return []
        return [rank for rank, one in self._seen.items() if one.silent > self._work_limit]

    def _is_waiting(self, rank: int) -> bool:
        beat = self._seen[rank].beat
        return beat is not None and bool(beat.waits)

    def _is_in_call(self, rank: int) -> bool:
        """Whether a call computes for as long, and it is not another process that is waited for."""
        one = self._seen[rank]
        waits_else = one.beat is not None and one.beat.waits == OTHERS
        return one.idle > self._work_limit and one.still <= self._limit and not waits_else

    def _say(self, rank: int, how: str) -> str:
        beat = self._seen[rank].beat
        return how + (f" ({beat.place})" if beat else "")
