"""Temporary files and folders: gone with their process, or by the next one of that name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hermes.storage.durable import Disk, write_atomically, write_folder_atomically
from hermes.storage.temporary import AGE, TemporaryFolder, delete_abandoned

MAKES = """
import os, sys, time
from hermes.storage.temporary import TemporaryFolder
folder = TemporaryFolder("tokens", sys.argv[1])
open(folder.name + "/tokens.bin", "w").close()
print(folder.name, flush=True)
time.sleep(600)
"""


def make_old(path):
    past = time.time() - 2 * AGE
    os.utime(path, (past, past))


def test_a_folder_is_deleted_with_its_block(tmp_path):
    with TemporaryFolder("tokens", tmp_path) as name:
        Path(name, "tokens.bin").write_text("x")
        assert [path.name for path in tmp_path.iterdir()] == [Path(name).name]
    assert not list(tmp_path.iterdir())


def test_a_folder_of_a_killed_process_is_deleted_by_the_next_and_that_of_a_living_one_is_not(
    tmp_path,
):
    with subprocess.Popen(
        [sys.executable, "-c", MAKES, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        left = Path(process.stdout.readline().strip())
        make_old(left)
        TemporaryFolder("tokens", tmp_path).delete()
        assert left.is_dir()
        process.send_signal(signal.SIGKILL)
    make_old(left)
    TemporaryFolder("input", tmp_path).delete()  # another kind is another's
    assert left.is_dir()
    TemporaryFolder("tokens", tmp_path).delete()
    assert not left.exists()


def test_what_was_just_made_is_not_yet_abandoned(tmp_path):
    (tmp_path / "hermes-tokens-1").mkdir()
    assert delete_abandoned(tmp_path, "hermes-tokens-") == []
    make_old(tmp_path / "hermes-tokens-1")
    assert delete_abandoned(tmp_path, "hermes-tokens-") == [tmp_path / "hermes-tokens-1"]


def test_what_was_made_before_the_clock_was_set_back_is_abandoned_too(tmp_path):
    (tmp_path / "hermes-tokens-1").mkdir()
    future = time.time() + 10 * AGE
    os.utime(tmp_path / "hermes-tokens-1", (future, future))
    assert delete_abandoned(tmp_path, "hermes-tokens-") == [tmp_path / "hermes-tokens-1"]


def test_a_link_is_never_followed(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "hermes-tokens-1").symlink_to(kept)
    assert delete_abandoned(tmp_path, "hermes-tokens-", age=-1) == []
    assert kept.is_dir()


def test_writing_a_file_again_sweeps_what_a_killed_write_left(tmp_path):
    left, other = tmp_path / ".tmp-a.json-12345678", tmp_path / ".tmp-b.json-12345678"
    for path in (left, other):
        path.write_text("half")
        make_old(path)
    write_atomically(tmp_path / "a.json", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "a.json"]


@pytest.mark.parametrize("writing", [False, True])
def test_writing_a_folder_again_sweeps_what_a_killed_write_left(tmp_path, writing):
    target = tmp_path / "model"
    left = tmp_path / ".tmp-model-12345678"
    left.mkdir()
    (left / "half").write_text("half")
    make_old(left)
    if not writing:
        with write_folder_atomically(target, Disk()) as beside:
            (beside / "whole").write_text("whole")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        return
    # One that another process is still writing is let be.
    with write_folder_atomically(target, Disk()) as beside:
        make_old(beside)
        assert delete_abandoned(tmp_path, ".tmp-model-") == []
