"""What processes of one machine need to meet and start, looked for before they are started."""

import errno
import os
import socket

import pytest

from hermes.errors import HermesError, StorageError
from hermes_cli.launch.launcher import check_surroundings


def refuse(number):
    def call(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_machine_that_has_them_is_accepted(backend):
    check_surroundings(backend)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize(
    ("name", "number"),
    [("create_server", errno.EADDRNOTAVAIL), ("create_connection", errno.ENETUNREACH)],
)
def test_without_a_loopback_interface_none_are_started(backend, name, number, monkeypatch):
    """As in a network namespace of its own: torch wrote pages of stack frames."""
    monkeypatch.setattr(socket, name, refuse(number))
    with pytest.raises(HermesError) as refused:
        check_surroundings(backend)
    assert str(refused.value).startswith("the processes would meet at 127.0.0.1, which cannot be ")
    assert str(refused.value).endswith(
        f"({os.strerror(number).lower()}); bring up the loopback interface, or train in one process"
    )


def test_without_shared_memory_those_of_torch_are_not_started(monkeypatch):
    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", refuse(errno.EROFS))
    check_surroundings("mlx")
    with pytest.raises(StorageError) as refused:
        check_surroundings("torch")
    assert str(refused.value) == (
        "torch starts processes with semaphores, which cannot be made in /dev/shm: "
        f"{os.strerror(errno.EROFS).lower()}; make it writable, or train in one process"
    )
