"""Runs on disk: exact resume on either backend, the record of metrics, and what is refused."""

import json
import math
import random

import numpy as np
import pytest
import yaml

from hermes.checkpoint import open_checkpoint
from hermes.errors import HermesError, NonFinite, StorageError
from hermes.library import train
from hermes.loop import Update
from hermes.report.metrics import MetricsFile, read_metrics
from hermes.runfile import handovers, read_sessions
from hermes.seam import find_backend
from hermes.tokenizer import train_tokenizer

BACKENDS = ("torch", "mlx")
SPEC = """model little { max_seq_len: 32 hidden_size: 16 num_layers: 2 vocab_size: 300
  block: { attention: { num_heads: 2 num_kv_heads: 1 dropout: 0.1 } ffn: { hidden_dim: 24 }
           dropout: 0.1 }
  embeddings { tie_weights: true } }"""
SENTENCE = "the cat sat on a mat and then it ran off to see what else there was "
WORDS = SENTENCE.split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text of some 4,000 tokens and its tokenizer."""
    choose = random.Random(3)
    text = " ".join(choose.choice(WORDS) for _ in range(3_000))
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path, train_tokenizer([text], vocab_size=290)


@pytest.fixture
def go(corpus, tmp_path):
    """Train the little model in tmp_path/NAME."""
    path, tokenizer = corpus

    def run(name="run", *, spec=SPEC, data=path, backend="torch", stop_at=None, **options):
        seen = []

        def report(event):
            seen.append(event)
            options.get("report", lambda event: None)(event)

        def stop():
            """Asked after each update, before it is reported."""
            return stop_at is not None and seen != [] and seen[-1].step >= stop_at - 1

        defaults = {
            "max_steps": 12, "seq_len": 16, "batch_size": 4, "lr": 3e-3, "val_fraction": 0.05,
            "schedule": "cosine", "warmup_steps": 2, "grad_clip": 0.5, "seed": 5,
        }  # fmt: skip
        return train(
            spec,
            data,
            tokenizer=options.pop("tokenizer", tokenizer),
            output=tmp_path / name,
            backend=backend,
            **defaults | options | {"report": report, "stop": stop},
        )

    return run


def tensors(path):
    checkpoint = open_checkpoint(path)
    state = checkpoint.state
    return [
        {name: np.array(part[name]) for name in part}
        for part in (state.params, state.exp_avg, state.exp_avg_sq)
    ]


def losses(run):
    return {r["step"]: r["loss"] for r in read_metrics(run) if "loss" in r}


@pytest.mark.parametrize("backend", BACKENDS)
def test_stopping_and_going_on_changes_no_bit(go, tmp_path, backend):
    """Weights, moments, losses and dropout of 5 + 3 + 4 updates are those of 12."""
    go("whole", backend=backend)
    first = go("parts", backend=backend, stop_at=5)
    assert (first.finished, first.steps) == (False, 5)
    second = go("parts", backend=backend, stop_at=8, resume=True)
    assert (second.finished, second.steps) == (False, 8)
    last = go("parts", backend=backend, resume=True)
    assert (last.finished, last.steps) == (True, 12)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for here, there in zip(
        tensors(tmp_path / "parts/step-00000012"),
        tensors(tmp_path / "whole/step-00000012"),
        strict=True,
    ):
        for name in there:
            np.testing.assert_array_equal(here[name], there[name], err_msg=name)


@pytest.mark.parametrize(("first", "second"), [("torch", "mlx"), ("mlx", "torch")])
def test_a_run_goes_on_on_the_other_backend(go, tmp_path, first, second):
    go("whole", backend=first)
    go("parts", backend=first, stop_at=6)
    go("parts", backend=second, resume=True)
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert sorted(parts) == list(range(1, 13))
    for step, loss in whole.items():
        assert parts[step] == pytest.approx(loss, abs=1e-5)
    for here, there in zip(
        tensors(tmp_path / "parts/step-00000012"),
        tensors(tmp_path / "whole/step-00000012"),
        strict=True,
    ):
        for name in there:
            np.testing.assert_allclose(here[name], there[name], atol=1e-4, err_msg=name)
    assert handovers(tmp_path / "parts") == [(6, f"{first} -> {second}")]


def test_a_split_of_the_batch_is_the_same_update(go, tmp_path):
    """The loss is the mean over all targets of an update, not the mean of its parts' means."""
    go("one", batch_size=6, spec=SPEC, val_fraction=0)
    go("three", batch_size=2, grad_accum=3, spec=SPEC, val_fraction=0)
    one, three = losses(tmp_path / "one"), losses(tmp_path / "three")
    for step in one:
        assert three[step] == pytest.approx(one[step], abs=2e-5)


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
        return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in
                read_metrics(tmp_path / name)]  # fmt: skip

    assert lines("killed") == lines("whole")


def test_a_line_has_exactly_the_fields_that_others_script_against(go, tmp_path):
    go(max_steps=2)
    update, _, evaluation = map(json.loads, (tmp_path / "run/metrics.jsonl").open())
    assert list(update) == [
        "step", "epoch", "tokens", "loss", "lr", "grad_norm", "tokens_per_second",
    ]  # fmt: skip
    assert list(evaluation) == ["step", "val_loss", "val_bits_per_byte"]
    assert update["tokens"] == 64
    assert update["loss"] == pytest.approx(math.log(290), abs=0.1)


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


def test_a_finished_run_has_nothing_left_to_do(go, tmp_path):
    go()
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    events = []
    again = go(resume=True, report=events.append)
    assert (events, again.finished, again.steps) == ([], True, 12)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_a_finished_run_goes_on_to_a_later_end(go, tmp_path):
    go(schedule="constant")
    go(schedule="constant", max_steps=15, resume=True)
    assert sorted(losses(tmp_path / "run")) == list(range(1, 16))


def test_an_end_that_was_stopped_before_its_evaluation_is_evaluated(go, tmp_path):
    go(stop_at=12)
    assert not any("val_loss" in r for r in read_metrics(tmp_path / "run"))
    result = go(resume=True)
    assert result.val_loss is not None
    assert [r["step"] for r in read_metrics(tmp_path / "run") if "val_loss" in r] == [12]


def test_nothing_to_resume_starts_fresh(go):
    assert go(resume=True).steps == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-3}, "lr is 0.003 in {0} and 0.001 here"),
        ({"seed": 6}, "seed is 5 in {0} and 6 here"),
        ({"seq_len": 8}, "seq_len is 16 in {0} and 8 here"),
        ({"schedule": "wsd"}, "schedule is 'cosine' in {0} and 'wsd' here"),
        ({"val_fraction": 0.1}, "val_fraction is 0.05 in {0} and 0.1 here"),
        (
            {"batch_size": 8},
            "an update takes 4 sequences in {0} (batch_size 4 x grad_accum 1) and 8 here (8 x 1)",
        ),
        (
            {"spec": SPEC.replace("num_layers: 2", "num_layers: 3")},
            "checkpoint was written for another model: num_layers 2 there, 3 here",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_does_not_go_on_as_another_one(go, tmp_path, change, message):
    go(max_steps=2)
    with pytest.raises(HermesError) as error:
        go(max_steps=4, resume=True, **change)
    assert str(error.value).startswith(message.format(tmp_path / "run/step-00000002"))


def test_a_run_may_change_how_it_is_carried_out(go, tmp_path):
    go(max_steps=2)
    changes = {"batch_size": 2, "grad_accum": 2, "save_every": 3, "eval_every": 1, "log_every": 2}
    assert go(max_steps=4, resume=True, **changes).steps == 4


def test_a_run_does_not_go_on_with_other_data(go, tmp_path):
    go(max_steps=2)
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 90, encoding="utf-8")
    with pytest.raises(HermesError, match="go on with the data that the run began with"):
        go(max_steps=4, resume=True, data=other)


def test_a_run_does_not_go_on_with_another_tokenizer(go):
    go(max_steps=2)
    other = train_tokenizer(["the cat sat on the mat " * 30], vocab_size=270)
    with pytest.raises(HermesError, match=r"the run's tokenizer has 290 tokens .* 270 and"):
        go(max_steps=4, resume=True, tokenizer=other)


def test_a_folder_with_a_run_is_not_written_into(go, tmp_path):
    go(max_steps=2)
    with pytest.raises(HermesError) as error:
        go(max_steps=2)
    assert str(error.value) == (
        f"run '{tmp_path / 'run'}' already has step 2; choose another directory or pass --resume"
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
            next(self.engine.module.parameters()).data[0] = float("nan")
        return report

    monkeypatch.setattr(learner_type, "step", poisoned)
    with pytest.raises(NonFinite):
        go(save_every=5, max_steps=5)
    assert not list((tmp_path / "run").glob("step-*"))


def _learner():
    from hermes.mal import loads
    from hermes.params import fresh_weights
    from hermes.recipe import Recipe
    from hermes.seam import TrainState

    spec = loads(SPEC)
    return find_backend("torch").learner(
        spec, TrainState(fresh_weights(spec, 0), {}, {}, 0), Recipe()
    )


def test_the_runs_file_is_yaml_that_says_everything(go, tmp_path):
    go(max_steps=2, lr=1e-5)
    text = (tmp_path / "run/run.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["lr"] == 1e-5  # a number to any reader, for its point
    assert values["seq_len"] == 16
    assert values["set"]["optimizer.eps"] == 1e-8
    assert [s.backend for s in read_sessions(tmp_path / "run")] == ["torch"]


def test_two_processes_do_not_write_one_run(go, tmp_path):
    from hermes.checkpoint import RunLock

    with RunLock(tmp_path / "run"), pytest.raises(HermesError, match="is in use by process"):
        go()


def test_a_full_disk_is_a_storage_error_and_the_checkpoint_before_it_stays(
    go, tmp_path, monkeypatch
):
    go(max_steps=2)
    monkeypatch.setattr("hermes.checkpoint.durable.free_bytes", lambda path: 10)
    with pytest.raises(StorageError, match="10"):
        go(max_steps=4, resume=True)
    monkeypatch.undo()
    assert go(max_steps=4, resume=True).steps == 4


def test_metrics_that_cannot_be_written_are_a_storage_error(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError) as error:
        MetricsFile(tmp_path)
    assert str(error.value) == f"cannot write {tmp_path / 'metrics.jsonl'}: is a directory"
