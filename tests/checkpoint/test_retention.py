"""What is deleted, when, and what never is."""

import shutil

import pytest

from hermes.checkpoint import Disk, RetentionPolicy, find_newest, list_steps, prune, sweep
from hermes.errors import CheckpointError, HermesError, StorageError
from tests.checkpoint.support import require_equal, save_at


def kept(run):
    return sorted(step for step, _ in list_steps(run))


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (RetentionPolicy(), [1, 2, 3, 4, 5, 6]),
        (RetentionPolicy(last=1), [6]),
        (RetentionPolicy(last=3), [4, 5, 6]),
        (RetentionPolicy(last=9), [1, 2, 3, 4, 5, 6]),
        (RetentionPolicy(every=2), [2, 4, 5, 6]),
        (RetentionPolicy(last=1, every=3), [3, 6]),
        (RetentionPolicy(last=1, best="val_loss"), [2, 6]),
        (RetentionPolicy(best="val_loss"), [2, 5, 6]),
        (RetentionPolicy(last=1, best="accuracy"), [1, 2, 3, 4, 5, 6]),
        (RetentionPolicy(last=1, every=4, best="val_loss"), [2, 4, 6]),
        (RetentionPolicy(last=1, best="val_accuracy"), [3, 6]),
    ],
)
def test_retention_keeps_what_any_rule_keeps(tmp_path, keep, left):
    losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 6.0}
    for step, loss in losses.items():
        others = {"val_accuracy": 0.5 + (step in (3, 4))}
        path = save_at(tmp_path, step, metrics={"val_loss": loss} | others)
    gone = prune(tmp_path, keep, path)
    assert kept(tmp_path) == left
    assert [int(p.name[5:]) for p in gone] == sorted(losses.keys() - set(left))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    require_equal(find_newest(tmp_path).checkpoint, 6)


@pytest.mark.parametrize("name", ["last", "every"])
@pytest.mark.parametrize("value", [0, -1])
def test_keeping_nothing_is_refused(name, value):
    with pytest.raises(HermesError, match=f"--keep-{name} must be at least 1, got {value}"):
        RetentionPolicy(**{name: value})


def test_nothing_is_deleted_for_a_damaged_newest(tmp_path):
    save_at(tmp_path, 1)
    path = save_at(tmp_path, 2)
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="was altered"):
        prune(tmp_path, RetentionPolicy(last=1), path)
    assert kept(tmp_path) == [1, 2]
    require_equal(find_newest(tmp_path).checkpoint, 1)


def test_a_torn_one_does_not_count_and_stays(tmp_path):
    for step in (1, 2):
        save_at(tmp_path, step)
    torn = save_at(tmp_path, 3)
    (torn / "model.safetensors").write_bytes(b"")
    path = save_at(tmp_path, 4)
    prune(tmp_path, RetentionPolicy(last=2), path)
    assert kept(tmp_path) == [2, 3, 4]


def test_one_whose_metrics_cannot_be_read_stays(tmp_path):
    """Its bytes were altered, its size was not, so only reading it shows that."""
    altered = save_at(tmp_path, 1, metrics={"val_loss": 9.0})
    data = (altered / "progress.json").read_bytes()
    (altered / "progress.json").write_bytes(data.replace(b'"val_loss"', b'"val_loss '))
    for step in (2, 3, 4):
        path = save_at(tmp_path, step, metrics={"val_loss": float(step)})
    prune(tmp_path, RetentionPolicy(last=1, best="val_loss"), path)
    assert kept(tmp_path) == [1, 2, 4]


def test_checkpoints_of_another_run_stay(tmp_path):
    """A stale higher step of another run is neither counted nor deleted."""
    save_at(tmp_path, 1)
    save_at(tmp_path, 9, run_id="run-b")
    path = save_at(tmp_path, 2)
    prune(tmp_path, RetentionPolicy(last=1), path)
    assert kept(tmp_path) == [2, 9]


def test_a_stale_higher_step_of_the_run_does_not_delete_the_one_just_written(tmp_path):
    save_at(tmp_path, 9)
    path = save_at(tmp_path, 2)
    prune(tmp_path, RetentionPolicy(last=1), path)
    assert kept(tmp_path) == [2, 9]


def test_nothing_else_is_touched(tmp_path):
    """Neither files of the run nor checkpoints under names of the user's own."""
    save_at(tmp_path, 1)
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "best")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000001.bak")
    (tmp_path / "metrics.jsonl").write_text("")
    path = save_at(tmp_path, 2)
    prune(tmp_path, RetentionPolicy(last=1), path)
    names = {"best", "metrics.jsonl", "step-00000001.bak", "step-00000002"}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_a_checkpoint_that_is_a_link_loses_no_files(tmp_path):
    """A link into another run stays, and so does what it leads to."""
    other = tmp_path / "other"
    save_at(other, 1)
    run = tmp_path / "run"
    run.mkdir()
    (run / "step-00000001").symlink_to(other / "step-00000001")
    path = save_at(run, 2)
    prune(run, RetentionPolicy(last=1), path)
    assert kept(run) == [1, 2]
    require_equal(find_newest(other).checkpoint, 1)


def test_an_error_while_deleting_leaves_the_newest_whole(tmp_path):
    save_at(tmp_path, 1)
    path = save_at(tmp_path, 2)

    def before(operation):
        if operation.kind == "delete":
            raise OSError(30, "Read-only file system")

    with pytest.raises(StorageError, match=r"cannot delete .*: read-only file system"):
        prune(tmp_path, RetentionPolicy(last=1), path, disk=Disk(before))
    require_equal(find_newest(tmp_path).checkpoint, 2)
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_leftovers_are_swept_and_nothing_else(tmp_path):
    save_at(tmp_path, 1)
    for name in (".tmp-step-00000002-ab", ".trash-step-00000001-cd"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("x")
    for name in (".lock", ".tmp-file", ".other-file"):
        (tmp_path / name).write_text("")
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "step-00000001")
    sweep(tmp_path)
    names = {".lock", ".other-file", ".tmp-link", "step-00000001"}
    assert {p.name for p in tmp_path.iterdir()} == names
    sweep(tmp_path / "nowhere")
