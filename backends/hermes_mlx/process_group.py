"""hermes.distributed.ProcessGroup on mlx.distributed: a ring of sockets, MPI, JACCL or NCCL."""

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn
import numpy as np
from mlx.core import array as Array
from numpy.typing import NDArray

from hermes.distributed.process_group import RankInfo
from hermes.errors import PeerLost, Unsupported

# MLX raises RuntimeError for all; only its message tells what happened.
SYSTEM_ERROR = "(error: "  # a call to the system failed or was interrupted; errno follows
LOST_PEER_WORDS = ("[ring]", "[jaccl]", "[mpi]", "[nccl]", "connection")


class ProcessGroup:
    """MLX's global group. Collectives of numbers and texts run on the CPU, in float64 or bytes."""

    def __init__(self, rank_info: RankInfo, group: mx.distributed.Group):
        self.rank_info, self._group = rank_info, group
        self._timeout, self._longest = rank_info.first_timeout, 0.0
        self._begun, self._busy = time.perf_counter(), 0.0
        self._working_since: float | None = None  # None until there is a first step
        self._activity = "the start"  # what a message about a lost peer says was going on
        self._names = ["unknown"] * rank_info.world_size
        self._names = self.all_gather_text(f"host {socket.gethostname()}, process {os.getpid()}")

    def all_reduce_sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum each number over all processes, in float64."""
        rows = self._gather_rows(np.array(list(numbers), np.float64))
        return rows.sum(axis=0).tolist()

    def all_reduce_max(self, number: float) -> float:
        """The largest of every process's number."""
        return float(self._gather_rows(np.array([number], np.float64)).max())

    def all_gather_text(self, text: str) -> list[str]:
        """Every process's text, by rank."""
        # A collective wants one size from all, so sizes go first and texts are padded.
        raw = np.frombuffer(text.encode(), np.uint8)
        sizes = self._gather_rows(np.array([len(raw)], np.int32))[:, 0]
        padded = np.zeros(max(1, sizes.max()), np.uint8)
        padded[: len(raw)] = raw
        rows = self._gather_rows(padded)
        return [row[:n].tobytes().decode() for row, n in zip(rows, sizes, strict=True)]

    def time_all_reduce(self, count: int) -> tuple[float, bool]:
        """Sum `count` float32 over all processes on their devices: seconds, and if it was right."""
        values = mx.full((count,), float(self.rank_info.rank + 1), mx.float32)
        mx.eval(values)
        self.all_reduce_max(0)  # a barrier, so that nobody's start is timed
        with self.watch("a sum that is timed"):
            begun = time.perf_counter()
            sums = mx.distributed.all_sum(values, group=self._group)
            mx.eval(sums)
            seconds = time.perf_counter() - begun
        expected = self.rank_info.world_size * (self.rank_info.world_size + 1) // 2
        return seconds, bool(mx.all(sums == expected).item())

    def diagnostics(self) -> list[str]:
        """Nothing: MLX does not say how its processes are connected."""
        return []

    def mark_first_step_done(self) -> None:
        """From now on a peer is lost after `timeout` seconds of silence, not `first_timeout`."""
        self._timeout = self.rank_info.timeout

    @contextlib.contextmanager
    def allow_compiling(self) -> Iterator[None]:
        """A context in which peers may be silent for as long as in the first step."""
        before, self._timeout = self._timeout, self.rank_info.first_timeout
        try:
            yield
        finally:
            self._timeout = before

    def begin(self) -> None:
        """Note the time at which every process begins its share of a step."""
        self._begun = time.perf_counter()
        if self._working_since is not None:
            self._working_since = self._begun

    def ready(self) -> None:
        """Note that this process's share is computed."""
        self._busy += time.perf_counter() - self._begun

    def busy_seconds(self) -> float:
        """Seconds from begin to ready since the last call, without waiting for other ranks."""
        busy, self._busy = self._busy, 0.0
        return busy

    def history(self) -> str:
        """What was waited for last; MLX keeps no record of collectives."""
        return self._activity

    def leave(self, sentence: str) -> None:
        """Do nothing: MLX has no store beside its group, where a reason could be left."""

    def close(self) -> None:
        """Do nothing: MLX cannot take its group apart, which ends with the process."""

    def sum_gradients(self, grads: dict[str, Array], count: float | Array) -> dict[str, Array]:
        """Sum gradients over all processes and divide by `count`, in few large messages."""
        # average_gradients packs small arrays into messages of 32 MB, and takes the mean over
        # processes. It is given a list: a dict it would unflatten at the dots of the names.
        means = mlx.nn.average_gradients(list(grads.values()), self._group)
        share = count / self.rank_info.world_size
        return {name: g / share for name, g in zip(grads, means, strict=True)}

    def sum_array(self, array: Array) -> Array:
        """Sum an array over all processes; lazy, so the result must be evaluated in a watch."""
        return mx.distributed.all_sum(array, group=self._group)

    @contextlib.contextmanager
    def watch(self, activity: str | None = None) -> Iterator[None]:
        """A context in which a dead peer raises PeerLost, and one that hangs ends this process.

        A ring waits for ever: it has no timeout, and its thread cannot be called back. So after
        ours the only way out is to exit. Where nobody chose that timeout, it has in addition as
        long as any step took so far.
        """
        self._activity = activity or self._activity
        limit = self._timeout
        if activity:
            self._working_since = time.perf_counter()
        # What waits for the others waits for this device's queue, too: a GPU's step, in the sum of
        # votes that follows it. So a long step would count as silence.
        if not self.rank_info.is_timeout_given:
            limit += self._longest
        timer = threading.Timer(limit, self._exit_after_timeout, [limit])
        timer.daemon = True
        timer.start()
        try:
            yield
            if self._working_since is not None:
                self._longest = max(self._longest, time.perf_counter() - self._working_since)
        except RuntimeError as error:
            if not any(word in str(error) for word in LOST_PEER_WORDS):
                raise
            reason = str(error).strip().splitlines()[0]
            raise PeerLost(
                f"rank {self.rank_info.rank} lost another process in {self._activity}: {reason}"
            ) from error
        finally:
            timer.cancel()

    def _exit_after_timeout(self, seconds: float) -> None:
        others = [
            f"rank {r} ({name})" for r, name in enumerate(self._names) if r != self.rank_info.rank
        ]
        self.rank_info.last_words(
            f"rank {self.rank_info.rank} waited {seconds:.3g} s in {self._activity} for "
            f"{', '.join(others)}; a process hangs, so all end; if they were at work, give a "
            "longer peer timeout"
        )
        os._exit(PeerLost.exit_code)

    def _gather_rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """Every process's array of N numbers. (N,) -> (world size, N)."""
        # As bytes, so that no dtype is cast or refused on the way.
        raw = np.frombuffer(array.tobytes(), np.uint8)
        with self.watch(), mx.stream(mx.cpu):
            gathered = mx.distributed.all_gather(mx.array(raw), group=self._group)
            mx.eval(gathered)  # waits without the interpreter's lock; np.array would hold it
            rows = np.array(gathered)
        return np.frombuffer(rows.tobytes(), array.dtype).reshape(self.rank_info.world_size, -1)


@contextlib.contextmanager
def _interrupt_after(seconds: float) -> Iterator[None]:
    """A context in which a system call that blocks for so long is interrupted by a signal.

    A ring that waits for a neighbour holds the interpreter's lock, so no thread could end it; but a
    signal makes its accept or connect fail with EINTR, which MLX raises as a RuntimeError.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can have a handler
        return
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # and each second after: calls follow
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def join(rank_info: RankInfo) -> ProcessGroup:
    """Join the other processes. Raises PeerLost and Unsupported."""
    begun = time.monotonic()
    try:
        with _interrupt_after(rank_info.rendezvous_timeout):
            group = mx.distributed.init(strict=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if SYSTEM_ERROR in reason:
            if f"{SYSTEM_ERROR}{errno.EINTR})" in reason:
                waited = time.monotonic() - begun >= rank_info.rendezvous_timeout
                nobody = f"nobody came in {rank_info.rendezvous_timeout:g} s"
                reason = nobody if waited else "a signal came first"
            raise PeerLost(
                f"rank {rank_info.rank} of {rank_info.world_size} did not find the other "
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
