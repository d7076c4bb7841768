"""Ends a rank that hangs before its first step, where no launcher of hermes watches it.

torchrun, srun, mpirun and mlx.launch see only ends. After the first step the others notice a rank
that hangs, by a collective that takes longer than the run's limit; before it they wait much longer.
So each rank watches itself. That needs no other rank, and finds all at once as it finds one.
"""

import os
import threading

from hermes.distributed.process_group import RankInfo
from hermes.distributed.signs_of_work import BEAT, SignsOfWork, count_beats
from hermes.errors import PeerLost

__all__ = ["StartWatch"]


class StartWatch:
    """A thread that looks at the one which makes this object.

    rank_info: of this rank; its timeout is the limit. option: what the limit is called by whoever
    set it. Seconds are counted by looks, since this process may be stopped and continued.
    """

    def __init__(self, rank_info: RankInfo, option: str):
        self._rank_info, self._option = rank_info, option
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
        for _ in count_beats(signs, self._watched, self._ended):
            idle = idle + BEAT if signs.number == seen and not signs.waits else 0.0
            seen = signs.number
            if idle > self._rank_info.timeout and not self._ended.is_set():
                self._end_process(signs.place)

    def _end_process(self, place: str) -> None:
        limit = f"{self._rank_info.timeout:g} s"
        self._rank_info.last_words(
            f"rank {self._rank_info.rank} (process {os.getpid()}) hung, so it ends: it did nothing "
            f"for {limit} before the first step ({place}); if it was at work, give a longer "
            f"{self._option}"
        )
        os._exit(PeerLost.exit_code)
