"""Processes that meet through mlx.distributed: a ring of sockets, MPI, JACCL or NCCL."""

import contextlib
import errno
import os
import signal
import socket
import threading
import time

import mlx.core as mx
import mlx.nn
import numpy as np

from hermes.errors import PeerLost, Unsupported

SYSTEM = "(error: "  # in what a ring says where the system refused, or was interrupted
WORDS = ("[ring]", "[jaccl]", "[mpi]", "[nccl]", "connection")


class ProcessGroup:
    """MLX's global group; what is asked goes over the CPU, in float64."""

    def __init__(self, rank_info, group):
        self.rank_info, self._group = rank_info, group
        self._limit = rank_info.first_timeout
        self._begun, self._own = time.perf_counter(), 0.0
        self._doing, self._names = "the start", ["unknown"] * rank_info.world_size
        self._names = self.all_gather_text(f"host {socket.gethostname()}, process {os.getpid()}")

    def all_reduce_sum(self, numbers):
        """The sum of each number over all processes, in float64."""
        rows = self._rows(np.array(list(numbers), np.float64))
        return rows.sum(axis=0).tolist()

    def all_reduce_max(self, number):
        """The largest of every process's number."""
        return float(self._rows(np.array([number], np.float64)).max())

    def all_gather_text(self, text):
        """Every process's text, by rank."""
        raw = np.frombuffer(text.encode(), np.uint8)
        sizes = self._rows(np.array([len(raw)], np.int32))[:, 0]
        held = np.zeros(max(1, sizes.max()), np.uint8)
        held[: len(raw)] = raw
        rows = self._rows(held)
        return [row[:n].tobytes().decode() for row, n in zip(rows, sizes, strict=True)]

    def timed_sum(self, count):
        """Seconds to sum `count` float32 over all processes on their devices; was it right?"""
        held = mx.full((count,), float(self.rank_info.rank + 1), mx.float32)
        mx.eval(held)
        self.all_reduce_max(0)  # all begin together
        with self.watched("a sum that is timed"):
            begun = time.perf_counter()
            found = mx.distributed.all_sum(held, group=self._group)
            mx.eval(found)
            seconds = time.perf_counter() - begun
        wanted = self.rank_info.world_size * (self.rank_info.world_size + 1) // 2
        return seconds, mx.all(found == wanted).item()

    def diagnostics(self):
        """None that can be seen from here."""
        return []

    def mark_first_step_done(self):
        """From now on a silence of place.timeout is too long."""
        self._limit = self.rank_info.timeout

    def begin(self):
        """All begin their share of an update."""
        self._begun = time.perf_counter()

    def ready(self):
        """This process's share is computed."""
        self._own += time.perf_counter() - self._begun

    def busy_seconds(self):
        """Seconds of its own since it was last asked."""
        own, self._own = self._own, 0.0
        return own

    def history(self):
        """MLX keeps no record; what was waited for last."""
        return self._doing

    def leave(self, sentence):
        """A ring has no place where it could be left."""

    def close(self):
        """Part, without waiting for anyone; the group goes with the process."""

    def summed(self, tensors, count):
        """Gradients summed over all processes and divided by `count`, in few large messages."""
        # The library groups small tensors and gives their mean; a list, as it splits names at dots.
        means = mlx.nn.average_gradients(list(tensors.values()), self._group)
        share = count / self.rank_info.world_size
        return {name: g / share for name, g in zip(tensors, means, strict=True)}

    def summed_number(self, array):
        """A scalar's sum over all processes, still lazy."""
        return mx.distributed.all_sum(array, group=self._group)

    @contextlib.contextmanager
    def watched(self, doing=None):
        """In its block a peer that died becomes PeerLost; one that hangs ends this process.

        A ring waits for ever, and nothing can call its thread back.
        """
        self._doing = doing or self._doing
        alarm = threading.Timer(self._limit, self._give_up)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        except RuntimeError as error:
            if not any(word in str(error) for word in WORDS):
                raise
            reason = str(error).strip().splitlines()[0]
            raise PeerLost(
                f"rank {self.rank_info.rank} lost another process in {self._doing}: {reason}"
            ) from error
        finally:
            alarm.cancel()

    def _give_up(self):
        others = [f"rank {r} ({w})" for r, w in enumerate(self._names) if r != self.rank_info.rank]
        self.rank_info.last_words(
            f"rank {self.rank_info.rank} waited {self._limit:g} s in {self._doing} for "
            f"{', '.join(others)}; a process hangs, so all end"
        )
        os._exit(PeerLost.exit_code)

    def _rows(self, array):
        """Every process's array, (size, N), carried as bytes so that no type is cast."""
        raw = np.frombuffer(array.tobytes(), np.uint8)
        with self.watched(), mx.stream(mx.cpu):
            gathered = mx.distributed.all_gather(mx.array(raw), group=self._group)
            mx.eval(gathered)  # which lets other threads run meanwhile
            found = np.array(gathered)
        return np.frombuffer(found.tobytes(), array.dtype).reshape(self.rank_info.world_size, -1)


@contextlib.contextmanager
def _interrupted_after(seconds):
    """In its block a call to the system that takes so long is interrupted by a signal.

    A ring that waits for a neighbour holds the interpreter, so that no thread can end it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def join(rank_info):
    """Meet the others."""
    try:
        with _interrupted_after(rank_info.rendezvous_timeout):
            group = mx.distributed.init(strict=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if SYSTEM in reason:
            if f"{SYSTEM}{errno.EINTR})" in reason:
                reason = f"nobody came in {rank_info.rendezvous_timeout:g} s"
            raise PeerLost(
                f"rank {rank_info.rank} did not meet the other {rank_info.world_size - 1} "
                f"processes: {reason}"
            ) from error
        raise Unsupported(
            f"mlx found no other process ({reason}); start them with mlx.launch, or with "
            "--num-processes on this machine"
        ) from error
    if (group.rank(), group.size()) != (rank_info.rank, rank_info.world_size):
        raise Unsupported(
            f"mlx says that this is rank {group.rank()} of {group.size()}, the launcher rank "
            f"{rank_info.rank} of {rank_info.world_size}"
        )
    return ProcessGroup(rank_info, group)
