"""Ranks that no launcher of hermes watches tell rank 0 how they are, until the first step.

Each is connected with rank 0's machine by TCP. It sends a line a second, and rank 0 sends one to
each: that it is there, or who hangs. So a rank is found that cannot find itself, as it is stopped,
is in a call that never ends, or waits for one that waits for it.
"""

import hmac
import json
import os
import secrets
import selectors
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

from hermes.distributed.process_group import RankInfo
from hermes.distributed.signs_of_work import FIRST_BEAT, Beat
from hermes.storage.plain_json import load_json

__all__ = ["BeatChannel", "open_channel"]

PATIENCE = 5.0  # seconds to connect, and to say who one is
STRANGERS = 128  # who may knock at the port beside the ranks, before anybody is let in
MOST = 65_536  # bytes that wait for the end of a line, or to be sent


class _Line:
    """A connection that sends and receives JSON objects, a line each, without ever waiting."""

    def __init__(self, connection: socket.socket):
        self.connection, self.is_open = connection, True
        self._read, self._unsent = b"", b""
        connection.setblocking(False)

    def send(self, words: Mapping[str, object]) -> None:
        """Send as much as goes; what comes while an earlier line waits is left out."""
        self._unsent = self._unsent or json.dumps(words).encode() + b"\n"
        try:
            self._unsent = self._unsent[self.connection.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def receive(self) -> list[dict[str, object]]:
        """The objects that have come; none, and no longer open, where the other end closed."""
        found = []
        while self.is_open:
            try:
                more = self.connection.recv(MOST)
            except BlockingIOError:
                break
            except OSError:
                more = b""
            *lines, self._read = (self._read + more).split(b"\n")
            if not more or len(self._read) > MOST:
                self.close()
            for line in lines:
                with suppress(ValueError):
                    if isinstance(words := load_json(line), dict):
                        found.append(words)
        return found

    def close(self) -> None:
        """Part from the other end."""
        self.is_open = False
        self.connection.close()


class BeatChannel:
    """What rank 0 knows of all ranks, and what another knows of rank 0 and itself.

    lines: the connections, by the rank at their other end. names: of all ranks.
    """

    def __init__(self, rank: int, lines: Mapping[int, _Line], names: list[str]):
        self.names = names
        self._rank, self._lines = rank, dict(lines)
        self._said: dict[int, Beat | None] = dict.fromkeys(lines, FIRST_BEAT)
        self._hung: dict[int, str] = {}

    def share(self, beat: Beat) -> dict[int, Beat | None]:
        """Tell of this rank, and read what others told; the last of each that is still there."""
        for rank, line in tuple(self._lines.items()):
            line.send(asdict(beat))
            for words in line.receive():
                self._read(rank, words)
            if not line.is_open:
                del self._lines[rank], self._said[rank]
        return {self._rank: beat, **self._said}

    def _read(self, rank: int, words: dict[str, object]) -> None:
        try:
            if self._rank and isinstance(hung := words.get("hung"), dict):
                self._hung = {int(one): str(how) for one, how in hung.items()}
            elif "hung" not in words:
                self._said[rank] = Beat(**words)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return

    def get_verdict(self) -> dict[int, str]:
        """What rank 0 has told of ranks that hang."""
        return self._hung

    def tell(self, hung: Mapping[int, str]) -> None:
        """Tell all other ranks which hang, and how; for rank 0."""
        for line in self._lines.values():
            line.send({"hung": dict(hung)})

    def close(self) -> None:
        """Part from all."""
        for line in self._lines.values():
            line.close()


def open_channel(
    rank_info: RankInfo, all_gather_text: Callable[[str], list[str]]
) -> BeatChannel | None:
    """Connect all ranks with rank 0, a collective; None, and a warning, where some cannot.

    all_gather_text: of their process group.
    """
    rank, size = rank_info.rank, rank_info.world_size
    server = _listen(rank_info) if rank == 0 else None
    token = secrets.token_hex(16)
    offer = {"name": f"host {socket.gethostname()}, process {os.getpid()}", "at": [], "token": ""}
    if server is not None:
        offer |= {"at": _find_addresses(rank_info, server.getsockname()[1]), "token": token}
    told = [json.loads(text) for text in all_gather_text(json.dumps(offer))]
    line = _connect(told[0], rank) if rank else None
    connected = all_gather_text("yes" if line or server else "").count("yes")
    lines: dict[int, _Line] = {}
    if connected == size:
        lines = {0: line} if line else _await_ranks(server, token, size) if server else {}
    if server is not None:
        server.close()
    if len(lines) == (size - 1 if rank == 0 else 1):
        return BeatChannel(rank, lines, [one["name"] for one in told])
    for one in (*lines.values(), *([line] if line else ())):
        one.close()
    if rank == 0:
        warnings.warn(
            f"{size - connected} of {size} processes cannot reach rank 0's machine "
            f"({', '.join(told[0]['at']) or 'no port is free'}) beside the run's own connections; "
            "a rank that is stopped or computes for ever before the first step is found after "
            f"{rank_info.first_timeout:g} s",
            stacklevel=2,
        )
    return None


def _listen(rank_info: RankInfo) -> socket.socket | None:
    here = "127.0.0.1" if rank_info.local_world_size == rank_info.world_size else ""
    try:
        return socket.create_server((here, 0), backlog=rank_info.world_size + STRANGERS)
    except OSError:
        return None


def _find_addresses(rank_info: RankInfo, port: int) -> list[str]:
    """Where other ranks may reach a port of this one, the likeliest first."""
    if rank_info.local_world_size == rank_info.world_size:
        return [f"127.0.0.1:{port}"]
    names = [(rank_info.rendezvous or "").rpartition(":")[0], os.environ.get("MASTER_ADDR", "")]
    names.append(socket.gethostname())
    with suppress(OSError):
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        names += [str(one[4][0]) for one in found]
    return [f"{name}:{port}" for name in dict.fromkeys(names) if name]


def _connect(offer: Mapping[str, list[str]], rank: int) -> _Line | None:
    for address in offer["at"]:
        host, _, port = address.rpartition(":")
        with suppress(OSError):
            connection = socket.create_connection((host, int(port)), timeout=PATIENCE)
            connection.sendall(json.dumps({"token": offer["token"], "rank": rank}).encode() + b"\n")
            return _Line(connection)
    return None


def _await_ranks(server: socket.socket, token: str, size: int) -> dict[int, _Line]:
    """The other ranks' connections; whoever does not know the token is none."""
    lines: dict[int, _Line] = {}
    strangers: list[_Line] = []
    server.setblocking(False)
    end = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(lines) < size - 1 and time.monotonic() < end:
            selector.select(0.05 if strangers else end - time.monotonic())
            with suppress(BlockingIOError):
                strangers.append(_Line(server.accept()[0]))
            for line in tuple(strangers):
                for words in line.receive()[:1]:
                    strangers.remove(line)
                    rank, said = words.get("rank"), str(words.get("token")).encode()
                    known = hmac.compare_digest(said, token.encode())
                    if known and isinstance(rank, int) and 0 < rank < size:
                        lines[rank] = line
                    else:
                        line.close()
    for line in strangers:
        line.close()
    return lines
