"""Checkpoints by the clock and by epoch, and sample text on the way."""

import json

import pytest

import hermes
from hermes.checkpoint import open_checkpoint
from hermes.errors import CheckpointError, HermesError
from hermes.training.samples import read_prompts, read_samples
from hermes.training.save_timer import SaveTimer


def test_the_timer_counts_from_the_last_save():
    now = [0.0]
    timer = SaveTimer(2, clock=lambda: now[0])
    for second, due in ((119, False), (120, True), (500, True)):
        now[0] = second
        assert timer.is_due() is due
    timer.restart()
    assert not timer.is_due()
    assert not SaveTimer(0, clock=lambda: 1e9).is_due()
    with pytest.raises(HermesError, match="--save-minutes must be at least 0"):
        SaveTimer(-1)


def test_a_run_saves_by_the_clock(go, tmp_path):
    go(save_minutes=1e-9, max_steps=3)
    assert [path.name[-1] for path in sorted((tmp_path / "run").glob("step-*"))] == ["1", "2", "3"]


def test_a_run_saves_after_each_epoch(go, tmp_path):
    result = go(save_every_epoch=True, max_steps=0, epochs=2, batch_size=64)
    saved = sorted((tmp_path / "run").glob("step-*"))
    assert len(saved) == 2
    first, last = (open_checkpoint(path).progress for path in saved)
    assert (first.epoch, last.epoch) == (1, 2)
    assert last.step == result.steps


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_samples_are_the_same_in_a_resumed_run(go, backend, tmp_path):
    options = {"sample_every": 2, "sample_prompt": ["the cat", ""], "sample_tokens": 5,
               "max_steps": 6, "backend": backend}  # fmt: skip
    go("whole", **options)
    go("parts", stop_at=4, **options)
    go("parts", resume=True, **options)
    whole, parts = (read_samples(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts
    assert [(s["step"], s["prompt"]) for s in whole] == [
        (step, prompt) for step in (2, 4, 6) for prompt in ("the cat", "")
    ]
    assert all(s["text"] for s in whole)


def test_both_backends_sample_the_same_text(go, tmp_path):
    options = {"sample_every": 2, "sample_prompt": "the cat", "max_steps": 4}
    for backend in ("torch", "mlx"):
        go(backend, backend=backend, **options)
    assert read_samples(tmp_path / "torch") == read_samples(tmp_path / "mlx")


def test_training_is_not_changed_by_samples(go, tmp_path):
    plain = go("plain", max_steps=4)
    sampled = go("sampled", max_steps=4, sample_every=1)
    assert plain.loss == sampled.loss


def test_prompts_are_lines_or_records(tmp_path):
    lines, records = tmp_path / "p.txt", tmp_path / "p.jsonl"
    lines.write_text("one\n\ntwo words\n", encoding="utf-8")
    assert read_prompts(lines) == ("one", "two words")
    records.write_text(json.dumps({"prompt": "a\nb"}) + "\n", encoding="utf-8")
    assert read_prompts(records) == ("a\nb",)
    records.write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(HermesError, match=r'p.jsonl:1: expected {"prompt": "..."}'):
        read_prompts(records)
    lines.write_text("\n", encoding="utf-8")
    with pytest.raises(HermesError, match="it has no prompt"):
        read_prompts(lines)


def test_the_names_of_epoch_files_stand_for_the_runs_checkpoints(go, tmp_path):
    go(save_every_epoch=True, max_steps=0, epochs=2, batch_size=64)
    run, saved = tmp_path / "run", sorted((tmp_path / "run").glob("step-*"))
    for epoch, folder in enumerate(saved, start=1):
        name = run / f"checkpoint_epoch_{epoch}.safetensors"
        model = hermes.load(name, config=run / "config.json", backend="torch")
        assert model.path == folder
    with pytest.raises(CheckpointError, match="after epoch 3; it has some after 1, 2"):
        hermes.load(run / "checkpoint_epoch_3.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        hermes.load(tmp_path / "checkpoint_epoch_3.safetensors")
