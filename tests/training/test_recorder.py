"""Runs on disk: what they leave, the record of metrics, and how they end."""

import dataclasses
import json
import math
import re
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from hermes.checkpoint import async_saver, open_checkpoint, save
from hermes.data.preference_dataset import PREFERENCE_METRICS
from hermes.errors import DataError, HermesError, NonFinite, StorageError
from hermes.interface import find_backend
from hermes.training.events import MEASURED, Evaluation, Saved, Update
from hermes.training.metrics_file import MetricsFile, read_metrics
from hermes.training.run_yaml import read_sessions
from hermes.training.surroundings import DataFiles
from tests.training.support import SPEC, losses, tensors

BACKENDS = ("torch", "mlx")


def test_metrics_have_neither_gaps_nor_repeats_after_a_kill(go, tmp_path):
    """Lines after the last checkpoint, one of them torn, are cut when the run goes on."""
    go("whole", save_every=4, eval_every=4)
    go("killed", save_every=4, eval_every=4, stop_at=6)
    run = tmp_path / "killed"
    step = next(run.glob("step-*6"))
    for file in step.iterdir():
        file.unlink()
    step.rmdir()
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    go("killed", save_every=4, eval_every=4, resume=True)

    def lines(name):
        return [{k: v for k, v in line.items() if k not in MEASURED} for line in
                read_metrics(tmp_path / name)]  # fmt: skip

    assert lines("killed") == lines("whole")


def test_a_checkpoint_is_whole_when_it_is_told_of(go, tmp_path, monkeypatch):
    """Even on a slow disk, and each of them once."""
    monkeypatch.setattr(async_saver, "save", lambda *a, **k: time.sleep(0.2) or save(*a, **k))
    told = []

    def report(event):
        if isinstance(event, Saved):
            open_checkpoint(event.path)
            told.append(event.step)

    go(save_every=4, report=report)
    assert told == [4, 8, 12]


def test_a_line_has_exactly_the_fields_that_others_script_against(go, tmp_path):
    go(max_steps=2)
    update, _, evaluation = map(json.loads, (tmp_path / "run/metrics.jsonl").open())
    assert list(update) == [
        "step", "epoch", "tokens", "loss", "lr", "grad_norm", "tokens_per_second",
        "peak_memory",
    ]  # fmt: skip
    assert list(evaluation) == ["step", "val_loss", "val_bits_per_byte"]
    assert update["tokens"] == 64
    assert update["loss"] == pytest.approx(math.log(290), abs=0.1)


def test_every_key_of_a_line_is_in_the_page_on_runs():
    page = (Path(__file__).resolve().parents[2] / "specs/run.md").read_text(encoding="utf-8")
    section = page[page.index("## metrics.jsonl") : page.index("## run.yaml")]
    told = set(re.findall(r"`(\w+)`", section))
    keys = {f.name for event in (Update, Evaluation) for f in dataclasses.fields(event)}
    assert (keys - {"others"}) | set(PREFERENCE_METRICS) <= told


def test_the_end_of_an_epoch_may_be_a_short_update(go, tmp_path):
    result = go(max_steps=0, epochs=1, batch_size=7, val_fraction=0, spec=SPEC)
    last = [r for r in read_metrics(tmp_path / "run")][-1]
    assert last["epoch"] == 1
    assert last["tokens"] % 16 == 0
    assert result.steps == last["step"] == math.ceil(last["tokens"] / 16 / 7)


def test_evaluating_and_saving_change_nothing_of_the_training(go, tmp_path):
    go("quiet")
    go("busy", eval_every=2, save_every=3, log_every=4)
    quiet, busy = losses(tmp_path / "quiet"), losses(tmp_path / "busy")
    assert sorted(busy) == [1, 4, 8, 12]
    assert all(busy[step] == quiet[step] for step in busy)


def test_log_every_thins_the_lines_and_saving_every_writes_the_folders(go, tmp_path):
    go(save_every=5, log_every=6)
    assert sorted(p.name for p in (tmp_path / "run").glob("step-*")) == [
        "step-00000005",
        "step-00000010",
        "step-00000012",
    ]


def test_a_folder_with_a_run_is_not_written_into(go, tmp_path):
    go(max_steps=2)
    with pytest.raises(HermesError) as error:
        go(max_steps=2)
    assert str(error.value) == (
        f"run '{tmp_path / 'run'}' already has step 2; choose another directory or pass resume=True"
    )


def test_an_empty_folder_is_fine_and_one_with_files_is_not(go, tmp_path):
    (tmp_path / "run").mkdir()
    go(max_steps=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(HermesError, match="is not empty; choose another directory"):
        go("full", max_steps=1)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "options", [{"seq_len": 64}, {"seq_len": 32, "data": "short.txt"}, {"backend": "jax"}]
)
def test_a_refused_run_leaves_no_folder(go, tmp_path, options):
    (tmp_path / "short.txt").write_text("the cat")
    if "data" in options:
        options = options | {"data": tmp_path / "short.txt"}
    with pytest.raises(HermesError):
        go(**options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_bursts_keeps_its_last_good_checkpoint(go, tmp_path, backend):
    """A rate that no model survives; weights saved before it are whole and finite."""
    go(max_steps=3, schedule="constant", backend=backend)
    events = []
    with pytest.raises(NonFinite, match=r"step \d+: the loss is|step \d+: the gradient norm|saved"):
        go("hot", max_steps=60, lr=1e30, grad_clip=0, save_every=1, report=events.append,
           backend=backend, warmup_steps=0, schedule="constant")  # fmt: skip
    saved = sorted((tmp_path / "hot").glob("step-*"))
    for path in saved:
        for part in tensors(path):
            assert all(np.isfinite(array).all() for array in part.values())
    assert all(math.isfinite(e.loss) for e in events if isinstance(e, Update))
    assert not list((tmp_path / "hot").glob(".tmp-*"))


def test_weights_that_are_no_number_are_never_saved(go, tmp_path, monkeypatch):
    learner_type = type(_learner())
    plain = learner_type.step
    made = []

    def poisoned(self, batch, lr):
        report = plain(self, batch, lr)
        made.append(lr)
        if len(made) == 5:
            next(self.runtime.module.parameters()).data[0] = float("nan")
        return report

    monkeypatch.setattr(learner_type, "step", poisoned)
    with pytest.raises(NonFinite):
        go(save_every=5, max_steps=5)
    assert not list((tmp_path / "run").glob("step-*"))


def _learner():
    from hermes.interface import TrainState
    from hermes.mal import loads
    from hermes.numerics.params import init_weights
    from hermes.recipe import Recipe

    spec = loads(SPEC)
    return find_backend("torch").learner(
        spec, TrainState(init_weights(spec, 0), {}, {}, 0), Recipe()
    )


def test_the_runs_file_is_yaml_that_says_everything(go, tmp_path):
    go(max_steps=2, lr=1e-5)
    text = (tmp_path / "run/run.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["lr"] == 1e-5  # a number to any reader, for its point
    assert values["seq_len"] == 16
    assert values["set"]["optimizer.eps"] == 1e-8
    assert [s.backend for s in read_sessions(tmp_path / "run")] == ["torch"]


@pytest.mark.parametrize(("given", "steps"), [({"max_steps": 7}, 7), ({"max_steps": 80}, 80)])
def test_the_runs_file_says_how_many_epochs_were_trained(go, tmp_path, given, steps):
    """Whatever `epochs` was, which --max-steps overrides; also of a run that was stopped."""

    def read():
        return yaml.safe_load((tmp_path / "run/run.yaml").read_text())["trained"]

    go(save_every=4, stop_at=3, **given)
    assert read()["steps"] == 3
    go(save_every=4, resume=True, **given)
    last = [line for line in read_metrics(tmp_path / "run") if "loss" in line][-1]
    assert read() == {"steps": steps, "epochs": last["epoch"]}
    assert (last["epoch"] > 1) == (steps == 80)


def test_two_processes_do_not_write_one_run(go, tmp_path):
    from hermes.checkpoint import RunLock

    with RunLock(tmp_path / "run"), pytest.raises(HermesError, match="is in use by process"):
        go()


def test_a_full_disk_is_a_storage_error_and_the_checkpoint_before_it_stays(
    go, tmp_path, monkeypatch
):
    go(max_steps=2)
    monkeypatch.setattr("hermes.storage.space.count_free_bytes", lambda path: 10)
    with pytest.raises(StorageError, match="10"):
        go(max_steps=4, resume=True)
    monkeypatch.undo()
    assert go(max_steps=4, resume=True).steps == 4


def test_metrics_that_cannot_be_written_are_a_storage_error(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError) as error:
        MetricsFile(tmp_path)
    assert str(error.value) == f"cannot write {tmp_path / 'metrics.jsonl'}: is a directory"


ODD = [
    *(b'{"step": null}\n', b'{"step": "x"}\n', b"[" * 100_000 + b"\n", b"\xff\n", b"3\n"),
    *(b'{"step": 2, "loss": NaN}\n', b'{"step": 2, "loss": "high"}\n', b'{"step": true}\n'),
    *(b'{"step": 2, "loss": 1' + 400 * b"0" + b"}\n", b'{"step": 2, "loss": 1e999}\n'),
]


def test_odd_lines_of_metrics_are_set_aside_and_named_and_the_run_resumes(go, tmp_path):
    go(max_steps=4)
    path = tmp_path / "run/metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *ODD, *lines[1:]]))
    with pytest.raises(DataError, match=r"metrics.jsonl:2: expected a JSON object of numbers"):
        read_metrics(tmp_path / "run")
    result = go(max_steps=6, resume=True)
    assert (
        f"{path} has {len(ODD)} lines that are no metrics, set aside in metrics-odd.jsonl: "
        in " ".join(result.notes)
    )
    assert (tmp_path / "run/metrics-odd.jsonl").read_bytes() == b"".join(ODD)
    assert path.read_bytes().startswith(b"".join(lines))
    assert [r["step"] for r in read_metrics(tmp_path / "run") if "loss" in r] == [1, 2, 3, 4, 5, 6]


def rename_after(kind, run, new):
    """Rename the run's folder at an event of step 2, in the middle of a save or after it."""

    def report(event):
        if isinstance(event, kind) and event.step == 2:
            run.rename(new)

    return report


@pytest.mark.parametrize("kind", [Update, Saved])
def test_a_folder_renamed_while_it_trains_is_an_error_and_no_second_folder(go, tmp_path, kind):
    run, new = tmp_path / "run", tmp_path / "renamed"
    with pytest.raises(StorageError) as error:
        go(max_steps=8, save_every=2, report=rename_after(kind, run, new))
    assert str(error.value) == (
        f"{run} is no longer the folder that the run began in: it was renamed, moved or deleted "
        "while the run trained; put it back and resume from its last checkpoint"
    )
    assert not run.exists()
    assert {path.name for path in new.glob("step-*")} <= {"step-00000002"}
    new.rename(run)
    assert go(max_steps=8, save_every=2, resume=True).steps == 8


def test_data_that_changes_while_a_run_trains_is_said_at_the_next_save(go, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat " * 200)

    def report(event):
        if getattr(event, "step", 0) == 1 and not text.read_text().endswith("more"):
            with text.open("a") as file:
                file.write("more")

    with pytest.warns(UserWarning, match=r"text.txt has changed while the run trains; the run"):
        go(data=text, max_steps=4, save_every=2, report=report)
    with pytest.raises(HermesError, match=r"^the data has fingerprint "):
        go(data=text, max_steps=6, resume=True)


def test_each_file_that_a_run_reads_is_watched(tmp_path):
    """Of data and of validation, text and tokens, and of prepared folders beside others."""
    text, tokens, held_out = tmp_path / "a.txt", tmp_path / "b.bin", tmp_path / "c.txt"
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"format": "hermes tokens"}')
    shard = folder / "00000-00000.bin"
    for path in (text, tokens, held_out, shard):
        path.write_text("words")
    names = (f"{text}:0.5", f"b={tokens}:0.2", f"p={folder}:0.3")
    files = DataFiles(names, (str(held_out), "-", "hf://datasets/a/b", str(tmp_path / "none")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.warn_changed()
    for path, words in (
        (text, "keeps to the text as it read it, but can be resumed with that text alone"),
        (held_out, "keeps to the text as it read it, but can be resumed with that text alone"),
        (tokens, "reads its tokens as it goes, so it may have trained on both, but can be resumed "
                 "with that file alone"),
        (shard, "reads its tokens as it goes"),
    ):  # fmt: skip
        path.write_text("other words")
        with pytest.warns(
            UserWarning, match=f"{path} has changed while the run trains; the run {words}"
        ):
            files.warn_changed()


def test_files_that_are_given_twice_or_are_validation_text_too_are_said(tmp_path):
    """By what they are: by other names, in a folder, and as parts of a mixture."""
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("words")
    (tmp_path / "link.txt").symlink_to("a.txt")
    a, b, c = (str(tmp_path / f"{name}.txt") for name in "abc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DataFiles((a, b), (c,)).warn_repeated()
        DataFiles((f"x={a}:1", f"{b}:2", "hf://datasets/a/b:1"), ("-",)).warn_repeated()
    shared = "is trained on and validation text at once, so the validation loss says little"
    twice = "given more than once, and trained on as often"
    for data, held_out, words in (
        ((a, b), (str(tmp_path / "link.txt"),), rf"{a} {shared}"),
        ((f"x={b}:1", f"y={c}:1"), (str(tmp_path),), rf"{b} and 1 more file are trained on"),
        ((a, a), (), rf"{a} is {twice}"),
        ((f"x={a}:1", f"y={tmp_path}:1"), (), rf"{a} and 1 more file are {twice}"),
    ):
        with pytest.warns(UserWarning, match=f"^{words}") as found:
            DataFiles(data, held_out).warn_repeated()
        assert len(found) == 1, words


def test_nothing_of_a_run_depends_on_the_clock(go, tmp_path, monkeypatch):
    """The wall clock may be set back: what a run does is told by steps and a monotonic clock."""
    go("plain", max_steps=4, save_every=1, keep_last=2)
    hours = iter(range(10_000, 0, -1))
    monkeypatch.setattr("time.time", lambda: 3600.0 * next(hours))
    go("back", max_steps=4, save_every=1, keep_last=2)
    names = [[path.name for path in sorted((tmp_path / name).glob("step-*"))]
             for name in ("plain", "back")]  # fmt: skip
    assert names == [["step-00000003", "step-00000004"]] * 2
    rates = [r["tokens_per_second"] for r in read_metrics(tmp_path / "back") if "loss" in r]
    assert all(rate > 0 for rate in rates)
    go("back", max_steps=6, keep_last=2, resume=True)
