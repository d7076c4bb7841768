"""The engine for asyncio: a thread steps it, and each text comes as an asynchronous iterator."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

from hermes.errors import HermesError
from hermes.inference.engine import Engine
from hermes.inference.request import Generation, Piece, Request

__all__ = ["AsyncEngine", "EngineIsClosed"]

T = TypeVar("T")


class EngineIsClosed(HermesError):
    """Nothing more is computed."""

    def __init__(self) -> None:
        super().__init__("the engine is closed")


class AsyncEngine:
    """Steps an engine in a thread of its own while there is something to do.

        with AsyncEngine(engine) as served:
            async for piece in served.stream(request):
                ...

    Leaving the block ends all texts. Only this thread touches the engine's model.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self._wake = threading.Condition()
        self._ends = False
        self._calls: list[Callable[[], None]] = []
        self._unfinished: set[Generation] = set()
        self._thread = threading.Thread(target=self._run, name="hermes-engine", daemon=True)

    def __enter__(self) -> "AsyncEngine":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs and waits, and end the thread."""
        with self._wake:
            self._ends = True
            for generation in self._unfinished:
                self.engine.cancel(generation)
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._ends or self._has_work()):
                    self._wake.wait()
                if self._ends and not self._has_work():
                    return
                calls, self._calls = self._calls, []
            for call in calls:
                call()
            if not (self.engine.num_running or self.engine.num_waiting):
                continue
            try:
                self.engine.step()
            except Exception:
                continue

    def _has_work(self) -> bool:
        return bool(self._calls or self.engine.num_running or self.engine.num_waiting)

    async def call(self, compute: Callable[[], T]) -> T:
        """Compute something with the engine's model, between two of its steps.

        Raises what it raises, and EngineIsClosed.
        """
        done: Future[T] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(compute())
            except BaseException as error:
                done.set_exception(error)

        with self._wake:
            if self._ends:
                raise EngineIsClosed
            self._calls.append(run)
            self._wake.notify()
        return await asyncio.wrap_future(done)

    async def stream(self, request: Request) -> AsyncGenerator[Piece]:
        """Yield the pieces of a text as they are made; the last has the finish reason.

        An iterator that is closed early, as of a client that has gone, cancels its text. Raises
        HermesError where the request is refused (QueueIsFull among them) or the text fails.
        """
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece] = asyncio.Queue()

        def tell(generation: Generation, piece: Piece) -> None:
            if piece.finish_reason is not None:
                with self._wake:
                    self._unfinished.discard(generation)
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        with self._wake:
            if self._ends:
                raise EngineIsClosed
            generation = self.engine.submit(request, tell)
            self._unfinished.add(generation)
            self._wake.notify()
        try:
            while True:
                piece = await pieces.get()
                yield piece
                if piece.finish_reason is None:
                    continue
                if generation.error is not None:
                    raise generation.error
                return
        finally:
            if not generation.is_done:
                self.engine.cancel(generation)
                with self._wake:
                    self._wake.notify()
