"""File systems that lack locks, modes, folders that sync or a count of what is free, and no folder.

Network file systems and those in user space are such; the errors here are what they answer.
"""

import errno
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from hermes.checkpoint import RunLock
from hermes.data.prepared import cache
from hermes.errors import StorageError
from hermes.model_info.machine import examine_machine
from hermes.storage.durable import write_atomically
from hermes.storage.space import count_free_bytes, require_space
from hermes.storage.temporary import TemporaryFolder, find_temporary_folder


def refuse(number):
    def call(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture
def flock(monkeypatch):
    return lambda number: monkeypatch.setattr(fcntl, "flock", refuse(number))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_run_does_without_locks_where_there_are_none_and_says_so(flock, tmp_path, number):
    flock(number)
    with RunLock(tmp_path / "run", required=False) as lock:
        assert lock.notes == (
            f"{tmp_path / 'run'} cannot be locked ({os.strerror(number).lower()}), so a second "
            "process that trains in it is not refused; start none",
        )
    with pytest.raises(StorageError, match=r"cannot lock .*\.lock: "):
        RunLock(tmp_path / "run")


def test_a_lock_that_another_error_refuses_is_refused(flock, tmp_path):
    flock(errno.EIO)
    with pytest.raises(StorageError, match=r"cannot lock .*\.lock: input/output error"):
        RunLock(tmp_path / "run", required=False)


def test_a_folder_without_locks_is_no_cache(flock, tmp_path):
    assert cache.can_write_cache(tmp_path / "cache")
    flock(errno.ENOSYS)
    assert not cache.can_write_cache(tmp_path / "cache")


def test_who_has_no_home_has_no_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.chdir(tmp_path)
    found = cache.find_cache_folder()
    assert not cache.can_write_cache(found)
    assert not list(tmp_path.iterdir())  # and makes no folder named ~


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_a_folder_that_cannot_be_synced_is_written_to_unless_its_disk_fails(
    tmp_path, monkeypatch, number
):
    def refuse_folders(descriptor):
        return refuse(number)() if stat.S_ISDIR(os.fstat(descriptor).st_mode) else None

    monkeypatch.setattr("hermes.storage.durable.flush", refuse_folders)
    if number == errno.EIO:
        with pytest.raises(StorageError, match="input/output error"):
            write_atomically(tmp_path / "a", b"1")
    else:
        write_atomically(tmp_path / "a", b"1")
        assert (tmp_path / "a").read_bytes() == b"1"


def test_a_file_is_replaced_where_there_are_no_modes(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"1")
    monkeypatch.setattr(os, "chmod", refuse(errno.EPERM))
    write_atomically(tmp_path / "a", b"2")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"2")]


def test_a_disk_that_counts_no_blocks_is_not_full(tmp_path, monkeypatch):
    assert count_free_bytes(tmp_path) > 0
    facts = SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=512)  # FUSE's, where none are given
    monkeypatch.setattr(os, "statvfs", lambda path: facts)
    assert count_free_bytes(tmp_path) is None
    require_space(tmp_path, 10**18)
    facts.f_blocks = 1
    with pytest.raises(StorageError, match="has 0 bytes free"):
        require_space(tmp_path, 1)


@pytest.fixture
def no_temporary(monkeypatch):
    """As in a container whose disk is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])


def test_no_folder_for_temporary_files_is_one_sentence(no_temporary):
    for make in (lambda: TemporaryFolder("tokens"), find_temporary_folder):
        with pytest.raises(StorageError) as refused:
            make()
        assert str(refused.value) == (
            "no usable temporary directory found in ['/proc/none']; set TMPDIR to a folder that "
            "can be written to"
        )


def test_a_machine_without_a_working_temporary_or_home_folder_is_examined(
    no_temporary, tmp_path, monkeypatch
):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("HOME", "/proc/none")
    assert examine_machine({}).disks == {}
    monkeypatch.chdir(tmp_path)
    assert list(examine_machine({}).disks) == [str(Path.cwd())]
