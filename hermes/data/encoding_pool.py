"""Encodes batches of text in order, on all cores, or in a given number of processes.

The tokenizers library uses all cores of a process by itself. Where another number of workers is
asked for, each is a process of its own that encodes on one core; texts and ids cross as bytes over
its pipes. Whatever the number, each text is encoded by itself, so the ids are the same.
"""

import os
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hermes.errors import HermesError

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["EncodingPool", "check_workers", "choose_batch_size", "encode_texts", "run_worker"]

T = TypeVar("T")
Ids = list[NDArray[np.uint32]]
# Batches that this process encodes at once: while the ids of one are copied, another has the cores.
HERE = 2
AHEAD = 2  # batches per worker that are read before they are needed
CORE_BATCH = 1 << 19  # characters of a batch for each core, of several pieces
LEAST_BATCH, LARGEST_BATCH = 1 << 20, 1 << 23
WORKER = "from hermes.data.encoding_pool import run_worker; run_worker()"


def choose_batch_size() -> int:
    """How many characters are encoded at a time: pieces for all cores, and a second's work."""
    return min(max(LEAST_BATCH, CORE_BATCH * (os.cpu_count() or 1)), LARGEST_BATCH)


def encode_texts(tokenizer: "Tokenizer", texts: Sequence[str], continued: Sequence[bool]) -> Ids:
    """Encode each text by itself, on all cores. continued: whether it continues another text."""
    return tokenizer.encode_to_arrays(texts, continued)


def check_workers(workers: int | None) -> None:
    """Refuse a number of processes that is none. Raises HermesError."""
    if workers is not None and workers < 1:
        raise HermesError(f"--workers must be at least 1, got {workers}")


class EncodingPool:
    """Encodes batches of text, a `with` block that ends its processes.

    workers: None for all cores of this process, else so many processes of one core each.
    """

    def __init__(self, tokenizer: "Tokenizer", workers: int | None = None):
        check_workers(workers)
        self._tokenizer, self._count = tokenizer, workers or 1
        self._is_here = workers is None
        self._threads = ThreadPoolExecutor(workers or HERE, "encode")
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        self._workers: list[_Worker] = []

    def encode(self, batches: Iterable[tuple[T, list[str], list[bool]]]) -> Iterator[tuple[T, Ids]]:
        """Yield each batch's first part and the ids of its texts, in order.

        A batch's last part says of each text whether it continues another.

        Some batches are read ahead, so that reading and encoding overlap.
        """
        pending: deque[tuple[T, Future[Ids]]] = deque()
        try:
            for first, texts, continued in batches:
                future = self._threads.submit(self._encode, texts, continued)
                pending.append((first, future))
                if len(pending) > AHEAD * self._count:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def _encode(self, texts: list[str], continued: list[bool]) -> Ids:
        if self._is_here:
            return encode_texts(self._tokenizer, texts, continued)
        worker = self._take_worker()
        try:
            return worker.encode(texts, continued)
        finally:
            self._free.put(worker)

    def _take_worker(self) -> "_Worker":
        """A free worker; another one is started while there may be more."""
        if self._free.empty() and len(self._workers) < self._count:
            worker = _Worker(self._tokenizer.to_json())
            self._workers.append(worker)
            return worker
        return self._free.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for worker in self._workers:
                worker.kill()  # a thread may wait for its answer
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()


class _Worker:
    """A process that encodes; it ends when its standard input does."""

    def __init__(self, tokenizer_json: str):
        paths = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C is for this process, which then ends the worker
        )
        try:
            self._send([tokenizer_json], [False])
        except OSError:
            raise self._explain_end() from None

    def _explain_end(self) -> HermesError:
        """The error about a process that ended before its time."""
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return HermesError(
            f"a process that encodes text ended with {how}; memory may be short: give fewer "
            "--workers"
        )

    def _send(self, texts: Sequence[str], continued: Sequence[bool]) -> None:
        encoded = [text.encode() for text in texts]
        lengths = struct.pack(f"<Q{len(texts)}Q", len(texts), *map(len, encoded))
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(b"".join([lengths, bytes(continued), *encoded]))
        self._process.stdin.flush()

    def encode(self, texts: list[str], continued: list[bool]) -> Ids:
        """Encode each text by itself. Raises HermesError where the process has ended."""
        try:
            self._send(texts, continued)
            assert self._process.stdout is not None, "it is a pipe"
            lengths = np.frombuffer(_read_exactly(self._process.stdout, 8 * len(texts)), "<u8")
            data = _read_exactly(self._process.stdout, 4 * int(lengths.sum()))
        except (EOFError, OSError):
            raise self._explain_end() from None
        ids = np.frombuffer(data, "<u4")
        ends = np.cumsum(lengths).tolist()
        return [ids[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None, "it is a pipe"
        assert self._process.stdout is not None, "it is a pipe"
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _read_exactly(file: IO[bytes], count: int) -> bytes:
    """Read `count` bytes. Raises EOFError."""
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _receive(file: IO[bytes]) -> tuple[list[str], list[bool]]:
    (count,) = struct.unpack("<Q", _read_exactly(file, 8))
    lengths = struct.unpack(f"<{count}Q", _read_exactly(file, 8 * count))
    continued = [flag != 0 for flag in _read_exactly(file, count)]
    return [_read_exactly(file, length).decode() for length in lengths], continued


def run_worker() -> None:
    """Encode what comes on standard input until it ends: the body of a worker's process."""
    from hermes.tokenizer import Tokenizer

    source, target = sys.stdin.buffer, sys.stdout.buffer
    try:
        tokenizer = Tokenizer.from_json(_receive(source)[0][0])
        while True:
            ids = encode_texts(tokenizer, *_receive(source))
            target.write(struct.pack(f"<{len(ids)}Q", *map(len, ids)))
            target.write(b"".join(one.astype("<u4").tobytes() for one in ids))
            target.flush()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # the pipes are gone, and with them whoever would read an error
