"""Arrays in files: what is asked for is read, and a file that is cut meanwhile is an error."""

import errno
import os

import numpy as np
import pytest

from hermes.data.document_index import INDEX
from hermes.errors import DataError, StorageError
from hermes.storage.array_file import ArrayFile

ROWS = np.array([(k * 7, k, k % 3) for k in range(50)], INDEX)
ARRAYS = {"ids": np.arange(1000, dtype="<u2"), "rows": ROWS}


@pytest.fixture(params=ARRAYS)
def array(request):
    return ARRAYS[request.param]


@pytest.fixture
def file(array, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"head" + array.tobytes() + b"tail")
    return ArrayFile(tmp_path / "a.bin", array.dtype, len(array), 4)


def test_what_is_asked_for_is_read(array, file):
    assert len(file) == len(array)
    for key in (slice(None), slice(3, 9), slice(7, 7), slice(9, 3), slice(40, 5000)):
        np.testing.assert_array_equal(file[key], array[key])
    for numbers in ([], [0], [49, 3, 3, 0]):
        np.testing.assert_array_equal(
            file.take(np.array(numbers, np.int64)), array.take(np.array(numbers, np.int64))
        )


def test_a_read_that_is_interrupted_goes_on(array, file, monkeypatch):
    read = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: read(file, min(size, 3), at))
    np.testing.assert_array_equal(file[:], array)


def test_a_file_that_is_cut_meanwhile_is_named(array, file):
    """Memory-mapped, it would end the process by SIGBUS."""
    os.truncate(file.path, 4 + 10 * array.dtype.itemsize + 1)
    np.testing.assert_array_equal(file[:10], array[:10])
    for read in (lambda: file[:11], lambda: file.take(np.array([0, 30]))):
        with pytest.raises(DataError) as cut:
            read()
        assert str(cut.value) == (
            f"{file.path} was cut short while it was being read; copy or prepare it again"
        )


def test_a_disk_that_fails_is_one_sentence(file, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageError) as failed:
        file[:1]
    assert str(failed.value) == f"cannot read {file.path}: {os.strerror(errno.EIO).lower()}"


def test_no_descriptor_is_left_open(array, file):
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        ArrayFile(file.path, array.dtype, len(array))[:3]
    assert len(os.listdir("/dev/fd")) == before
    with pytest.raises(StorageError, match=r"cannot read /proc/none: "):
        ArrayFile(type(file.path)("/proc/none"), array.dtype, 1)
