"""Runs a server until it is asked to stop."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from hermes.errors import HermesError, explain_os_error
from hermes.serving.app import make_app
from hermes.serving.http_protocol import HTTPProtocol
from hermes.serving.served_model import ServedModel

__all__ = ["OWN_NAMES", "bind", "run_server"]

OWN_NAMES = ("127.0.0.1", "localhost", "[::1]", "::1")
POLL = 0.1  # seconds between two looks at whether to stop
DRAIN = 50  # looks at new connections at the end, POLL / 10 apart
FIRST_LOOKS = 5  # of them that those need which nobody has accepted yet
FAREWELL = 10  # seconds that answers under way get at the end
LAST_WORDS = 5  # seconds more in which those that are not done are told so


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises HermesError."""
    if not 0 <= port < 2**16:
        raise HermesError(f"port must be from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its number asyncio knows a connection of TCP, and sends what is small at once: the 40 ms in
    # which the kernel waits for more would be those of every answer and token.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = explain_os_error(error)
        raise HermesError(f"cannot listen on {host} port {port}: {reason}") from error
    return listening


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to the program around it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(
    model: ServedModel,
    listening: socket.socket,
    *,
    api_key: str | None = None,
    hosts: tuple[str, ...] = OWN_NAMES,
    stop: Callable[[], bool] = lambda: False,
    on_start: Callable[[], object] = lambda: None,
) -> None:
    """Serve a model on a socket until `stop` says True; answers under way are finished.

    Those that take longer than FAREWELL end with an error of the API. hosts: names by which clients
    may call this machine. on_start: called once it answers.
    """
    config = uvicorn.Config(
        make_app(model, api_key=api_key, hosts=hosts),
        http=HTTPProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=FAREWELL + LAST_WORDS,
        limit_concurrency=None,
    )
    server = _Server(config)

    async def serve() -> None:
        watching = asyncio.create_task(watch())
        try:
            await server.serve([listening])
        finally:
            watching.cancel()

    async def drain() -> None:
        """Wait for requests of new connections, which uvicorn would close."""
        for looks in range(DRAIN):
            await asyncio.sleep(POLL / 10)
            fresh = [
                one for one in server.server_state.connections if getattr(one, "cycle", one) is None
            ]
            if looks >= FIRST_LOOKS and not fresh:
                return

    async def watch() -> None:
        told = False
        while not stop():
            if server.started and not told:
                told = True
                on_start()
            await asyncio.sleep(POLL)
        await drain()
        server.should_exit = True
        await asyncio.sleep(FAREWELL)
        # Of what is then not done uvicorn would break off the connections, without a word.
        await asyncio.to_thread(model.served.close)

    asyncio.run(serve())
