"""Ends a rank that hangs before its first step, where no launcher of hermes watches it.

torchrun, srun, mpirun and mlx.launch see only ends. After the first step the others notice a rank
that hangs, by a collective that takes longer than the run's limit; before it they wait much longer.
So each rank watches itself, which needs no other rank, and finds all at once as it finds one. What
a rank cannot tell of itself, rank 0 finds by what all tell it.
"""

import os
import threading

from hermes.distributed.beat_channel import BeatChannel
from hermes.distributed.hang_rules import HangRules
from hermes.distributed.process_group import RankInfo
from hermes.distributed.signs_of_work import BEAT, Beat, SignsOfWork, count_beats
from hermes.errors import PeerLost

__all__ = ["StartWatch"]


class StartWatch:
    """A thread that looks at the one which makes this object.

    rank_info: of this rank; its timeout and work_timeout are the limits. option: what they are
    called by whoever set them. channel: to rank 0, or to all others; None where there is none.
    Seconds are counted by looks, since this process may be stopped and continued.
    """

    def __init__(self, rank_info: RankInfo, option: str, channel: BeatChannel | None = None):
        self._rank_info, self._option, self._channel = rank_info, option, channel
        self._rules = HangRules(rank_info.timeout / BEAT, rank_info.work_timeout / BEAT)
        self._watched, self._ended = threading.get_ident(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="start", daemon=True)

    def start(self) -> None:
        """Begin: the other ranks are found."""
        self._thread.start()

    def stop(self) -> None:
        """End: the first step is done, or there will be none."""
        self._ended.set()

    def _run(self) -> None:
        signs, seen, idle = SignsOfWork(), 0, 0.0
        for number in count_beats(signs, self._watched, self._ended):
            worked = signs.number + signs.calls
            idle = idle + BEAT if worked == seen and not signs.waits else 0.0
            seen = worked
            if self._channel is not None:
                self._look_at_all(self._channel, signs.get_beat(number))
            if idle > self._rank_info.timeout and not self._ended.is_set():
                limit = f"{self._rank_info.timeout:g} s"
                how = f"it did nothing for {limit} before the first step ({signs.place})"
                self._end_process({self._rank_info.rank: how})
        if self._channel is not None:
            self._channel.close()

    def _look_at_all(self, channel: BeatChannel, beat: Beat) -> None:
        self._rules.add(channel.share(beat), {})
        hung = channel.get_verdict()
        if not hung:
            limit = f"for {self._rank_info.work_timeout:g} s before the first step"
            how = f"it said nothing {limit} while others waited: it is stopped, or in a call that"
            hung = dict.fromkeys(self._rules.find_silent(), f"{how} keeps Python's lock")
        if not hung and self._rank_info.rank == 0:
            hung = self._rules.find()
        if hung and not self._ended.is_set():
            if self._rank_info.rank == 0:
                channel.tell(hung)
            self._end_process(hung)

    def _end_process(self, hung: dict[int, str]) -> None:
        """Say who hangs, this rank itself if it does, and end."""
        own = self._rank_info.rank
        rank = own if own in hung else min(hung)
        advice = f"; if it was at work, give a longer {self._option}"
        if rank == own:
            who = f"rank {rank} (process {os.getpid()}) hung, so it ends"
        else:
            name = self._channel.names[rank] if self._channel else "another process"
            who = f"rank {rank} ({name}) hung, so rank {own} ends"
        self._rank_info.last_words(f"{who}: {hung[rank]}{advice}")
        os._exit(PeerLost.exit_code)
