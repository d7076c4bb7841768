"""Finding a checkpoint: the newest whole one, and what --checkpoint may name."""

import shutil

import pytest

from hermes.checkpoint import NewerFormat, find_newest, locate, open_checkpoint
from hermes.errors import CheckpointError
from tests.checkpoint.support import (
    SPEC,
    require_equal,
    resealed,
    save_at,
    state_at,
)


def test_locate_takes_a_checkpoint_a_run_or_bare_weights(tmp_path):
    run = tmp_path / "run"
    first, second = save_at(run, 1), save_at(run, 2)
    assert locate(first)[0].path == first
    assert locate(run)[0].path == second
    assert locate(run, spec=SPEC)[0].path == second
    bare, skipped = locate(second / "model.safetensors", spec=SPEC)
    assert skipped == ()
    assert not bare.resumable
    assert bare.params["lm_head.weight"].tobytes() == state_at(2).params["lm_head.weight"].tobytes()
    with pytest.raises(CheckpointError, match=r"has no optimizer.safetensors, so no run can be"):
        bare.state  # noqa: B018
    with pytest.raises(CheckpointError, match=r"has no progress.json, so no run can be resumed"):
        bare.progress  # noqa: B018


def test_what_locate_cannot_take_is_said(tmp_path):
    def refusal(path, **given):
        with pytest.raises(CheckpointError) as caught:
            locate(path, **given)
        return str(caught.value)

    path = save_at(tmp_path / "run", 1)
    weights = path / "model.safetensors"
    assert refusal(weights) == f"{weights} holds weights only; name their model with --config"
    nowhere = tmp_path / "nowhere"
    assert refusal(nowhere) == f"{nowhere}: no such file or folder; check the name"
    assert refusal(tmp_path).startswith(
        f"{tmp_path} is neither a checkpoint nor a run: it has no mani"
    )
    (path / "model.mal").write_text("")
    assert refusal(tmp_path / "run").startswith(f"run {tmp_path / 'run'} has no whole checkpoint; ")


def test_a_newer_format_is_refused_with_both_numbers_and_never_passed_over(tmp_path):
    save_at(tmp_path, 1)
    path = save_at(tmp_path, 2)
    resealed(path, version=7)
    message = rf"checkpoint {path} has format version 7; this hermes reads up to 1, so update it"
    for refuse in (
        open_checkpoint,
        lambda p: find_newest(p.parent),
        lambda p: save_at(p.parent, 2),
    ):
        with pytest.raises(NewerFormat, match=message):
            refuse(path)


def test_a_damaged_newest_is_passed_over_with_the_reason(tmp_path):
    paths = [save_at(tmp_path, step) for step in (1, 2, 3)]
    (paths[2] / "model.mal").write_bytes(b"")
    shutil.rmtree(paths[1])
    paths[1].mkdir()
    found = find_newest(tmp_path)
    require_equal(found.checkpoint, 1)
    assert [skip.path for skip in found.skipped] == [paths[2], paths[1]]
    assert "is torn: it has 0 bytes" in found.skipped[0].reason
    assert "manifest.json: no such file" in found.skipped[1].reason
    checkpoint, skipped = locate(tmp_path)
    assert checkpoint.path == paths[0]
    assert skipped == found.skipped


def test_a_checkpoint_under_another_steps_name_is_passed_over(tmp_path):
    save_at(tmp_path, 1)
    save_at(tmp_path, 2).rename(tmp_path / "step-00000009")
    found = find_newest(tmp_path)
    require_equal(found.checkpoint, 1)
    assert "step-00000009 is of step 2; rename it back" in found.skipped[0].reason
    require_equal(open_checkpoint(tmp_path / "step-00000009"), 2)


def test_what_is_no_checkpoint_is_not_looked_at(tmp_path):
    save_at(tmp_path, 1)
    for name in ("step-2", "step-0000000x", "step-00000003.bak", ".tmp-step-00000004-00"):
        (tmp_path / name).mkdir()
    found = find_newest(tmp_path)
    assert found.skipped == ()
    require_equal(found.checkpoint, 1)


def test_there_is_no_newest_where_there_is_no_run(tmp_path):
    assert find_newest(tmp_path).checkpoint is None
    assert find_newest(tmp_path / "nowhere").checkpoint is None
