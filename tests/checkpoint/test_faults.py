"""Killed, cut from power or refused by the disk at any point of a save: whole or absent."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hermes.checkpoint import Disk, RetentionPolicy, find_newest, open_checkpoint, save
from hermes.errors import NonFinite, StorageError
from tests.checkpoint.laws import (
    go_on,
    record,
    require_found,
    survives_kill,
    survives_power_loss,
)
from tests.checkpoint.support import (
    SPEC,
    logged_disk,
    progress_at,
    quick_folder,
    save_at,
    state_at,
)
from tests.packages import ROOT

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR, errno.EROFS)


def operations():
    return record()[0]


def test_killed_before_some_operations_a_whole_checkpoint_is_found():
    """A tenth of the points of the long test, half of them with a torn write."""
    log = operations()
    points = random.Random("kills").sample(range(len(log)), len(log) // 10)
    for i, point in enumerate(points):
        assert survives_kill(point, torn=i % 2 == 0, workers=1 + i % 3 // 2)
    assert not survives_kill(len(log), torn=False)


@pytest.mark.long
@pytest.mark.parametrize("torn", [False, True])
def test_killed_before_any_operation_a_whole_checkpoint_is_found(torn):
    for point in range(len(operations())):
        assert survives_kill(point, torn)


def test_the_power_may_fail_at_any_point():
    survives_power_loss(100, seed="power")
    survives_power_loss(50, seed="power", workers=2)


@pytest.mark.long
def test_the_power_may_fail_at_any_point_in_many_ways():
    for seed in range(5):
        survives_power_loss(1000, seed, workers=1 + seed % 2)


def refusing(point, code):
    """A disk that refuses its operation number `point` once."""
    count = iter(range(10**9))

    def before(operation):
        if next(count) == point:
            raise OSError(code, os.strerror(code), str(operation.path))

    return Disk(before)


def fails_cleanly(point, code):
    """The error names a path, and the space needed where space it was; the run is as it was."""
    with quick_folder() as folder:
        run = Path(folder) / "run"
        save_at(run, 1)
        with pytest.raises(StorageError) as caught:
            save_at(run, 2, disk=refusing(point, code))
        assert str(run) in str(caught.value)
        assert caught.value.exit_code == 74
        assert caught.value.__cause__.errno == code
        if code in (errno.ENOSPC, errno.EDQUOT):
            assert "the checkpoint needs" in str(caught.value)
        assert not [p for p in run.iterdir() if p.name.startswith(".tmp-")]
        found = find_newest(run)
        # Only the last operation, the sync of the run's folder, comes after the new name is there.
        step = 2 if (run / "step-00000002").exists() else 1
        assert found.checkpoint.progress.step == step
        require_found(run, step)
        return step


def count_of_one_save():
    with quick_folder() as folder:
        run = Path(folder) / "run"
        save_at(run, 1)
        disk, log = logged_disk()
        save_at(run, 2, disk=disk)
        return len(log)


def test_an_error_at_some_operations_leaves_the_run_as_it_was():
    total = count_of_one_save()
    points = random.Random("errors").sample(range(total), total // 4)
    for i, point in enumerate([*points, total - 2, total - 1]):
        step = fails_cleanly(point, ERRORS[i % len(ERRORS)])
        assert step == (2 if point == total - 1 else 1)


@pytest.mark.long
@pytest.mark.parametrize("code", ERRORS)
def test_an_error_at_any_operation_leaves_the_run_as_it_was(code):
    for point in range(count_of_one_save()):
        fails_cleanly(point, code)


def run_alone(text, folder):
    """The exit code of a program that saves into a folder, in a process of its own."""
    return subprocess.run([sys.executable, "-c", text, folder], cwd=ROOT).returncode


CUT_SHORT = """
import resource, sys
from pathlib import Path
from hermes.errors import StorageError
from tests.checkpoint.support import save_at
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
try:
    save_at(Path(sys.argv[1]), 2)
except StorageError as error:
    sys.exit(74 if "file too large" in str(error) and "needs" in str(error) else 1)
"""


def test_a_file_cut_short_by_the_system_leaves_the_run_as_it_was(tmp_path):
    """The limit on a file's size gives a real short write, then a real error."""
    save_at(tmp_path, 1)
    assert run_alone(CUT_SHORT, tmp_path) == 74
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_too_little_space_is_refused_before_the_first_byte(tmp_path, monkeypatch):
    disk, log = logged_disk()
    monkeypatch.setattr("hermes.storage.space.count_free_bytes", lambda path: 100)
    with pytest.raises(StorageError, match=r"has 100 bytes free and the checkpoint needs \d+; "):
        save_at(tmp_path, 1, disk=disk)
    assert log == []


WITHOUT_PERMISSION = """
import os, sys
from pathlib import Path
from hermes.errors import StorageError
from tests.checkpoint.support import quick_folder, save_at
folder = sys.argv[1]
with quick_folder() as other:
    save_at(Path(other), 1)  # with all that it imports, which nobody might not read
if os.geteuid() == 0:
    os.chown(folder, 65534, 65534)
    os.setuid(65534)
os.chmod(folder, 0o500)
try:
    save_at(Path(folder), 1)
except StorageError as error:
    sys.exit(74 if f"{folder}/.tmp-" in str(error) else 1)
"""


def test_a_folder_without_permission_is_named():
    """By a process that is nobody's, since root may write everywhere."""
    with quick_folder() as folder:
        assert run_alone(WITHOUT_PERMISSION, folder) == 74


def test_a_run_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(StorageError, match=r"cannot make folder .*: not a directory"):
        save_at(tmp_path / "run", 1)


@pytest.mark.parametrize("kind", ["params", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_saved(tmp_path, kind, value):
    state = state_at(2)
    getattr(state, kind)["model.norm.weight"][3] = value
    save_at(tmp_path, 1)
    with pytest.raises(NonFinite, match=r"tensor '.*model.norm.weight' holds NaN or an infinity"):
        save(tmp_path, state, spec=SPEC, progress=progress_at(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_save_of_a_saved_step_is_refused_and_a_damaged_one_is_replaced(tmp_path):
    path = save_at(tmp_path, 1)
    with pytest.raises(Exception, match=r"already has step 1; choose another directory or pass"):
        save_at(tmp_path, 1)
    data = bytearray((path / "optimizer.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "optimizer.safetensors").write_bytes(data)
    assert find_newest(tmp_path).checkpoint is None
    save_at(tmp_path, 1)
    require_found(tmp_path, 1)


def test_every_file_and_folder_is_synced_before_it_gets_its_name(tmp_path):
    disk, log = logged_disk()
    path = save_at(tmp_path / "run", 1, disk=disk)
    final = next(i for i, o in enumerate(log) if o.kind == "rename")
    kinds = [o.kind for o in log]
    assert kinds[:2] == ["make folder", "sync folder"]
    created = {o.path.name for o in log[:final] if o.kind == "create"}
    synced = {o.path.name for o in log[:final] if o.kind == "sync"}
    assert created == synced == {p.name for p in path.iterdir()}
    assert [o.path.name for o in log if o.kind == "create"][-1] == "manifest.json"
    assert kinds[final - 1 :] == ["sync folder", "rename", "sync folder"]
    assert log[-1].path == tmp_path / "run"


def test_large_writes_are_cut_to_64_mib(tmp_path):
    disk, log = logged_disk()
    descriptor = disk.create(tmp_path / "large")
    disk.write(descriptor, tmp_path / "large", memoryview(bytes(65 * 2**20)))
    os.close(descriptor)
    assert [len(o.data) for o in log] == [0, 64 * 2**20, 2**20]


def test_two_saves_of_one_state_are_equal_to_the_byte(tmp_path):
    first, second = save_at(tmp_path / "a", 1), save_at(tmp_path / "b", 1)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_going_on_deletes_only_after_the_new_one_is_named(tmp_path):
    save_at(tmp_path, 1)
    disk, log = logged_disk()
    go_on(tmp_path, disk)
    named = [o.target.name for o in log if o.kind == "rename"]
    assert named[0] == "step-00000002"
    assert named[1].startswith(".trash-step-00000001")
    assert open_checkpoint(tmp_path / "step-00000003").progress.step == 3
    assert RetentionPolicy(last=1).everything is False
