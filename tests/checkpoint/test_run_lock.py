"""One process per run."""

import os
import subprocess
import sys

import pytest

from hermes.checkpoint import (
    RunLock,
)
from hermes.errors import HermesError, StorageError


def test_a_second_process_in_one_run_is_refused_with_the_first_ones_name(tmp_path):
    code = (
        "import sys; from pathlib import Path; from hermes.checkpoint import RunLock\n"
        "with RunLock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        message = rf"run '{tmp_path}' is in use by process {holder.pid} on .*; wait for it or stop"
        with pytest.raises(HermesError, match=message):
            RunLock(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    with RunLock(tmp_path):
        pass  # the lock died with its holder; the file it left means nothing


def test_a_lock_is_let_go_and_may_be_taken_again(tmp_path):
    with RunLock(tmp_path / "new"), pytest.raises(HermesError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path / "new")
    lock = RunLock(tmp_path / "new")
    lock.close()
    lock.close()


def test_a_lock_that_cannot_be_taken_is_an_error_of_storage(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write to"):
        RunLock(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "run.yaml", "anything"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_run_writes_nothing_outside_of_its_folder_through_links(tmp_path, name, exists):
    """Whoever sent the folder could have had any file of the user's written over."""
    run, private = tmp_path / "run", tmp_path / "private"
    run.mkdir()
    if exists:
        private.write_text("mine")
    (run / name).symlink_to("../private")
    with pytest.raises(StorageError) as refused:
        RunLock(run)
    assert str(refused.value) == (
        f"{run / name} is a link to {private}, outside of the run, which would write there; "
        "remove it"
    )
    assert private.exists() == exists
    assert not exists or private.read_text() == "mine"


def test_links_within_a_run_and_checkpoints_on_another_disk_are_fine(tmp_path):
    run, disk = tmp_path / "run", tmp_path / "disk/step-00000001"
    run.mkdir()
    disk.mkdir(parents=True)
    (run / "step-00000001").symlink_to(disk)
    (run / "notes.txt").symlink_to("more.txt")
    RunLock(run).close()
    (run / ".lock").unlink()
    (run / ".lock").symlink_to("elsewhere")
    with pytest.raises(
        StorageError, match=r"cannot write to .*: too many levels of symbolic links"
    ):
        RunLock(run)
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    with pytest.raises(StorageError, match=r"cannot lock .*\.lock: "):
        RunLock(run)
