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
