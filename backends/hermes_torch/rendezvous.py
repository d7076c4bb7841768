"""Where processes meet: the store beside the process group, asked who is there.

An elastic agent keeps one store for all of its attempts, so what an earlier attempt wrote is still
there. Everything here is written under the name of one meeting.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
import warnings

import torch.distributed as dist

from hermes.errors import HermesError, PeerLost

ROLL_CALL = 3.0  # seconds in which whoever still lives says so
WAIT = 0.02
NAMED_IN = 10.0  # seconds in which a host may become known by its name
LATER = 2.0  # seconds after its own limit
SAID_AFTER = 20.0  # seconds after which a process says for whom it waits


def check_host(where, rank_info):
    """Refuse a host that this machine does not know. Raises HermesError."""
    host, _, port = where.rpartition(":")
    end = time.monotonic() + min(NAMED_IN, rank_info.rendezvous_timeout)
    while True:
        try:
            socket.getaddrinfo(host.strip("[]"), None)
            return
        except socket.gaierror as error:
            if time.monotonic() > end:
                raise HermesError(
                    f"rank {rank_info.rank} is to meet the others at {host!r}, port {port}, and "
                    f"this machine does not know that host ({error.strerror}); set MASTER_ADDR to "
                    "an address of rank 0's machine, the same for all"
                ) from error
        time.sleep(WAIT)


@contextlib.contextmanager
def warn_while_waiting(where, rank_info):
    """In its block a process that meets nobody for a while says where it waits."""
    words = (
        f"rank {rank_info.rank} of {rank_info.world_size} still waits for the others at "
        f"{where}; it gives up after {rank_info.rendezvous_timeout:g} s"
    )
    with _alarm(SAID_AFTER, warnings.warn, words):
        yield


@contextlib.contextmanager
def give_up(where, rank_info):
    """Its block ends the process where the store, which has a limit of its own, forgets it.

    It does where somebody else listens at that port and says nothing: torch asks for ever.
    """

    def end():
        rank_info.last_words(
            f"rank {rank_info.rank} did not meet the other {rank_info.world_size - 1} processes: "
            f"what listens at {where} is none of them; set MASTER_PORT to a free port there, "
            "the same for all"
        )
        os._exit(PeerLost.exit_code)

    with _alarm(rank_info.rendezvous_timeout + LATER, end):
        yield


@contextlib.contextmanager
def _alarm(seconds, call, *arguments):
    alarm = threading.Timer(seconds, call, arguments)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


class Rendezvous:
    """The processes that met this time. Raises RuntimeError or dist.DistError where some do not."""

    def __init__(self, store, rank_info, wait):
        self._rank, self._size = rank_info.rank, rank_info.world_size
        me = uuid.uuid4().hex
        store.set(f"hermes/hello/{rank_info.rank}", me)
        if rank_info.rank == 0:
            name = uuid.uuid4().hex
            self._gather(store, name, wait)
        else:
            # Only the rank 0 that lives now can know this process's name.
            name = store.get(f"hermes/meeting/{me}").decode()
            store.set(f"hermes/{name}/came/{rank_info.rank}", b"1")
        self.store = dist.PrefixStore(f"hermes/{name}", store)

    def _gather(self, store, name, wait):
        """Tell all the meeting's name until each has come: some greetings may be old."""
        missing, end = set(range(1, self._size)), time.monotonic() + wait
        while missing:
            for rank in tuple(missing):
                if store.check([f"hermes/{name}/came/{rank}"]):
                    missing.discard(rank)
                elif store.check([f"hermes/hello/{rank}"]):
                    other = store.get(f"hermes/hello/{rank}").decode()
                    store.set(f"hermes/meeting/{other}", name)
            if time.monotonic() > end:
                absent = ", ".join(f"rank {rank}" for rank in sorted(missing))
                raise dist.DistStoreError(f"{absent} did not come in {wait:g} s")
            time.sleep(WAIT)

    def tell(self, sentence):
        """Leave the reason for which this process ends, for those that miss it."""
        with contextlib.suppress(RuntimeError):
            self.store.set(f"reason/{self._rank}", sentence)

    def roll_call(self):
        """Who does not answer, by rank, with the reason if one was left; all survivors call it."""
        lost = [r for r in range(self._size) if r != self._rank]
        try:
            self.store.set(f"here/{self._rank}", b"1")
            end = time.monotonic() + ROLL_CALL
            while lost and time.monotonic() < end:
                lost = [r for r in lost if not self.store.check([f"here/{r}"])]
                time.sleep(WAIT)
            return {r: self._reason(r) for r in lost}
        except RuntimeError:
            return {0: ""}  # who keeps the store

    def _reason(self, rank):
        key = f"reason/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else ""
