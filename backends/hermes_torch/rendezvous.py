"""How the processes of a run find each other: a handshake on the store beside the process group.

An elastic agent (torchrun) keeps one store for all attempts of a run, so keys of an earlier attempt
may still be there. Rank 0 names each rendezvous anew, and all later keys carry that name.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from hermes.distributed.process_group import RankInfo
from hermes.errors import HermesError, PeerLost, explain_os_error

# All in seconds.
ROLL_CALL = 3.0  # in which every process that is alive answers a roll call
POLL = 0.02
RESOLVE = 10.0  # in which a host name may become known: schedulers start hosts one by one
GIVE_UP_AFTER = 2.0  # beyond the store's own timeout
WARN_AFTER = 20.0


def check_host(address: str, rank_info: RankInfo) -> None:
    """Refuse a "host:port" whose host this machine cannot resolve. Raises HermesError.

    torch would try until its timeout, and then not say which name was wrong.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + min(RESOLVE, rank_info.rendezvous_timeout)
    while True:
        try:
            socket.getaddrinfo(host.strip("[]"), None)
            return
        except (socket.gaierror, UnicodeError) as error:  # the latter where it is no name at all
            is_system = isinstance(error, OSError)
            reason = explain_os_error(error) if is_system else "no host has such a name"
            if isinstance(error, UnicodeError) or time.monotonic() > end:
                raise HermesError(
                    f"rank {rank_info.rank} cannot resolve {host!r} (port {port}), where the "
                    f"processes of this run meet: {reason}; set MASTER_ADDR to an address "
                    "of rank 0's machine, the same for all"
                ) from error
        time.sleep(POLL)


@contextlib.contextmanager
def warn_while_waiting(address: str, rank_info: RankInfo) -> Iterator[None]:
    """A context that warns, if it takes long, of what this process waits for and where."""
    message = (
        f"rank {rank_info.rank} of {rank_info.world_size} still waits for the others at "
        f"{address}; it gives up after {rank_info.rendezvous_timeout:g} s"
    )
    with _call_after(WARN_AFTER, warnings.warn, message):
        yield


@contextlib.contextmanager
def give_up(address: str, rank_info: RankInfo) -> Iterator[None]:
    """A context that ends the process where torch does not keep to the store's timeout.

    It does not where something else listens at that port and never answers: it then asks for ever,
    in C++, where no exception of Python's reaches it.
    """

    def end() -> None:
        rank_info.last_words(
            f"rank {rank_info.rank} of {rank_info.world_size} did not find the other processes: "
            f"what listens at {address} is none of them; set MASTER_PORT to a free port there, "
            "the same for all"
        )
        os._exit(PeerLost.exit_code)

    with _call_after(rank_info.rendezvous_timeout + GIVE_UP_AFTER, end):
        yield


@contextlib.contextmanager
def _call_after(seconds: float, call: Callable[..., Any], *args: Any) -> Iterator[None]:
    timer = threading.Timer(seconds, call, args)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Rendezvous:
    """The processes of this attempt, and a store of their own.

    Raises RuntimeError or dist.DistError where some do not come in `timeout` seconds.
    """

    def __init__(self, store: dist.Store, rank_info: RankInfo, timeout: float):
        self._rank, self._size = rank_info.rank, rank_info.world_size
        own = uuid.uuid4().hex
        store.set(f"hermes/hello/{rank_info.rank}", own)
        if rank_info.rank == 0:
            name = uuid.uuid4().hex
            self._gather(store, name, timeout)
        else:
            # Only a rank 0 of this attempt can answer to a name that was made in it.
            name = store.get(f"hermes/rendezvous/{own}").decode()
            store.set(f"hermes/{name}/came/{rank_info.rank}", "1")
        self.store = dist.PrefixStore(f"hermes/{name}", store)

    def _gather(self, store: dist.Store, name: str, timeout: float) -> None:
        """Answer hellos with this rendezvous's name until every rank has come to it.

        A hello may be left from an earlier attempt: it is answered, nobody comes, and the rank's
        new hello takes its place.
        """
        missing, end = set(range(1, self._size)), time.monotonic() + timeout
        while missing:
            for rank in tuple(missing):
                if store.check([f"hermes/{name}/came/{rank}"]):
                    missing.discard(rank)
                elif store.check([f"hermes/hello/{rank}"]):
                    other = store.get(f"hermes/hello/{rank}").decode()
                    store.set(f"hermes/rendezvous/{other}", name)
            if time.monotonic() > end:
                absent = ", ".join(f"rank {rank}" for rank in sorted(missing))
                raise dist.DistStoreError(f"{absent} did not come in {timeout:g} s")
            time.sleep(POLL)

    def tell(self, sentence: str) -> None:
        """Leave the reason why this process ends, for the others to find in a roll call."""
        with contextlib.suppress(RuntimeError):  # the store's process may be gone already
            self.store.set(f"reason/{self._rank}", sentence)

    def call_roll(self) -> dict[int, str]:
        """The ranks that do not answer and the reason each left, or ''. All survivors call it."""
        lost = [r for r in range(self._size) if r != self._rank]
        try:
            self.store.set(f"here/{self._rank}", "1")
            end = time.monotonic() + ROLL_CALL
            while lost and time.monotonic() < end:
                lost = [r for r in lost if not self.store.check([f"here/{r}"])]
                time.sleep(POLL)
            return {r: self._read_reason(r) for r in lost}
        except RuntimeError:
            return {0: ""}  # the store itself is gone, which rank 0's process or its agent serves

    def _read_reason(self, rank: int) -> str:
        key = f"reason/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else ""
