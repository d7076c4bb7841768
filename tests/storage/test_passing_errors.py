"""Errors of a network file system that the next call does not meet, and those that stay."""

import errno
import os

import numpy as np
import pytest

from hermes.errors import CheckpointError, StorageError
from hermes.storage.array_file import ArrayFile
from hermes.storage.reading import read_small

CALLS = ["open", "preadv", "pread"]


@pytest.fixture
def refuse(monkeypatch):
    """A call of the operating system that fails so many times, and then is as ever."""

    def plant(name, number, times):
        plain, left = getattr(os, name), [times]

        def call(*arguments):
            if left[0]:
                left[0] -= 1
                raise OSError(number, os.strerror(number))
            return plain(*arguments)

        monkeypatch.setattr(os, name, call)
        return left

    return plant


def read(path):
    return read_small(path), ArrayFile(path, "<u2", 2)[:].tobytes()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_what_fails_once_is_read(name, number, tmp_path, refuse):
    """A checkpoint would be passed over for an older one, and a run would end."""
    (tmp_path / "a").write_bytes(b"four")
    left = refuse(name, number, 1)
    assert read(tmp_path / "a") == (b"four", b"four")
    assert left == [0]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("number", "times"), [(errno.EIO, 2), (errno.EACCES, 1)])
def test_what_stays_is_an_error(name, number, times, tmp_path, refuse):
    np.array([1, 2], "<u2").tofile(tmp_path / "a")
    left = refuse(name, number, times)
    with pytest.raises((CheckpointError, StorageError), match=rf"^cannot read {tmp_path}/a: "):
        read(tmp_path / "a")
    assert left == [0]
