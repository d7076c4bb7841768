"""Disks that are really full or read-only: an error that says what to do, and nothing is lost."""

import gc
import os
import subprocess

import pytest

from hermes.checkpoint import find_newest, list_steps
from hermes_cli.main import run as hermes
from tests.checkpoint.support import save_at
from tests.scenarios.kill_runs import command, material

SIZE = 1_500_000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of SIZE bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount")
    yield folder
    gc.collect()  # an error's frames hold the files of the checkpoint that a run resumed from
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_and_leaves_its_checkpoints_whole(tmp_path, small_disk):
    """Saving every update until nothing fits, and going on when there is room again."""
    material(tmp_path, 0)
    run, said = small_disk / "run", []
    arguments = [*command(tmp_path, run, "torch"), "--save-every", "1", "--max-steps", "12"]
    assert hermes(arguments, said.append) == 74  # looked at before it begins
    assert "12 checkpoints of" in said[0]
    assert not list_steps(run)
    said.clear()
    assert hermes([*arguments, "--force"], said.append) == 74
    said = [line for line in said if line.startswith("Error: ")]
    assert len(said) == 1
    assert str(run) in said[0]
    assert "bytes free and the checkpoint needs" in said[0] or "are free" in said[0]
    found = list_steps(run)
    assert 1 <= len(found) < 12
    search = find_newest(run)
    assert (search.checkpoint.progress.step, search.skipped) == (found[0][0], ())
    assert not list(run.glob(".tmp-step*"))
    subprocess.run(["mount", "-o", f"remount,size={2 * SIZE}", small_disk], check=True)
    assert hermes([*arguments, "--keep-last", "1"], said.append) == 0, said
    assert list_steps(run)[0][0] == 12


def test_a_disk_that_is_read_only_is_named_and_its_checkpoint_stays_readable(tmp_path, small_disk):
    material(tmp_path, 0)
    save_at(small_disk / "run", 1)
    before = find_newest(small_disk / "run").checkpoint.manifest
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    said = []
    for name in ("run", "new"):
        assert hermes(command(tmp_path, small_disk / name, "torch"), said.append) == 74
    assert said == [
        f"Error: cannot write to {small_disk / name}: read-only file system"
        for name in ("run", "new")
    ]
    assert find_newest(small_disk / "run").checkpoint.manifest == before
