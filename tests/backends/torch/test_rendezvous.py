"""Processes of torch that do not find each other say where they looked, and what to do."""

import itertools
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from hermes.distributed.process_group import RankInfo
from hermes.errors import HermesError, PeerLost
from tests.distributed.support import WAIT


@pytest.fixture
def join():
    return pytest.importorskip("hermes_torch.process_group").join


def test_an_unknown_host_is_named_with_what_to_do(join, monkeypatch):
    lookups = []

    def fail(host, port):
        lookups.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    moments = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(moments) / 100, sleep=lambda seconds: None)
    monkeypatch.setattr("hermes_torch.rendezvous.time", clock)
    with pytest.raises(HermesError) as refusal:
        join(RankInfo(1, 2, rendezvous="rack1:2024", rendezvous_timeout=0.1), "cpu")
    assert str(refusal.value) == (
        "rank 1 cannot resolve 'rack1' (port 2024), where the processes of this run meet: name or "
        "service not known; set MASTER_ADDR to an address of rank 0's machine, the same for all"
    )
    assert set(lookups) == {"rack1"}
    assert len(lookups) > 1  # the name may be known a moment later


@pytest.mark.parametrize("name", ["rack1..cluster", "r" * 64])
def test_what_can_be_no_hosts_name_is_named_too(join, name):
    with pytest.raises(HermesError) as refusal:
        join(RankInfo(1, 2, rendezvous=f"{name}:2024", rendezvous_timeout=60.0), "cpu")
    assert str(refusal.value) == (
        f"rank 1 cannot resolve '{name}' (port 2024), where the processes of this run meet: no "
        "host has such a name; set MASTER_ADDR to an address of rank 0's machine, the same for all"
    )


@pytest.fixture
def stranger():
    """The address of another program that listens and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_in_use_is_named_with_what_to_do(join, stranger):
    with pytest.raises(PeerLost) as refusal:
        join(RankInfo(0, 2, rendezvous=stranger, rendezvous_timeout=2.0), "cpu")
    assert str(refusal.value) == (
        f"rank 0 of 2 did not find the other processes: {stranger} is in use; set MASTER_PORT to a "
        "free port, the same for all"
    )


def test_a_process_that_finds_another_program_warns_and_then_ends(join, stranger):
    """torch alone would ask it for ever."""
    script = (
        "from hermes_torch import process_group, rendezvous\n"
        "from hermes.distributed.process_group import RankInfo\n"
        "rendezvous.WARN_AFTER = rendezvous.GIVE_UP_AFTER = 0.1\n"
        f"rank_info = RankInfo(1, 2, rendezvous={stranger!r}, rendezvous_timeout=1.0)\n"
        "process_group.join(rank_info, 'cpu')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 76, done.stderr
    waits = (
        f"UserWarning: rank 1 of 2 still waits for the others at {stranger}; it gives up after 1 s"
    )
    assert waits in done.stderr
    assert done.stderr.endswith(
        f"Error: rank 1 of 2 did not find the other processes: what listens at {stranger} is "
        "none of them; set MASTER_PORT to a free port there, the same for all\n"
    )
