"""Going on with the data of a run: mixtures as they were begun, other data only where allowed."""

import re

import pytest

from hermes.checkpoint import open_checkpoint
from hermes.data.mixture_blocks import AS_DRAWN, AS_SHUFFLED
from hermes.data.run_data import RunData
from hermes.errors import HermesError
from hermes.training import text_data
from hermes.training.metrics_file import read_metrics
from tests.training.support import SENTENCE, losses


def test_a_run_does_not_go_on_with_other_data(go, tmp_path):
    go(max_steps=2)
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 90, encoding="utf-8")
    with pytest.raises(HermesError, match="resume with the data that the run began with"):
        go(max_steps=4, resume=True, data=other)


def test_a_mixture_is_resumed_where_it_stopped(go, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 90, encoding="utf-8")
    corpus, _ = go.corpus
    options = {"data": [f"{corpus}:3", f"{other}:1"], "val_fraction": 0.1}
    whole = go("whole", **options)
    assert any(note.startswith(f"{other}: 25.0% of the samples, ") for note in whole.notes)
    go("parts", **options, stop_at=5)
    go("parts", **options, resume=True, batch_size=2, grad_accum=2)
    one, two = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, abs=2e-5)
    with pytest.raises(HermesError, match="resume with the data that the run began with"):
        go("parts", **options | {"data": [f"{corpus}:2", f"{other}:2"]}, resume=True, max_steps=13)


def test_a_mixture_goes_on_with_the_numbering_that_it_was_begun_with(go, tmp_path, monkeypatch):
    """A run of a version that shuffled the numbers of a block, whose fingerprint names none."""
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 30, encoding="utf-8")
    corpus, _ = go.corpus
    options = {"data": [f"{corpus}:1", f"{other}:1"], "val_fraction": 0.1}
    go("new", **options)
    with monkeypatch.context() as before:
        before.setattr(text_data, "AS_DRAWN", AS_SHUFFLED)
        go("whole", **options)
        go("parts", **options, stop_at=5)
    go("parts", **options, resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert losses(tmp_path / "new") != losses(tmp_path / "whole")
    found = {run: RunData.read(tmp_path / run).records for run in ("new", "whole", "parts")}
    assert found["parts"] == found["whole"] != found["new"]
    assert [one.numbering for one in (*found["parts"], *found["new"])] == [AS_SHUFFLED, AS_DRAWN]


@pytest.mark.parametrize(("first", "second"), [("torch", "mlx"), ("mlx", "torch")])
def test_a_mixture_whose_weights_change_is_resumed_on_the_other_backend(
    go, tmp_path, first, second
):
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 90, encoding="utf-8")
    corpus, _ = go.corpus
    data = {
        "long": {"files": corpus, "weight": 1},
        "short": {"files": [str(other)], "weight": 1},
        "schedule": {4: {"long": 0}, 8: {"long": 3}},
    }
    options = {"data": data, "val_fraction": 0.1, "eval_every": 4}
    whole = go("whole", backend=first, **options)
    (note,) = [note for note in whole.notes if note.startswith("long: ")]
    assert note.startswith("long: 50.0% of the samples, 0.0% from step 4 on, 75.0% from step 8 on,")
    go("parts", backend=first, **options, stop_at=5)
    with pytest.raises(HermesError, match="the weights of the data change at steps of as many"):
        go("parts", **options, resume=True, batch_size=8, allow_batch_change=True)
    go("parts", backend=second, **options, resume=True, batch_size=2, grad_accum=2)
    by_step = [
        {line["step"]: line for line in read_metrics(tmp_path / run) if "loss" in line}
        for run in ("whole", "parts")
    ]
    for step, line in by_step[0].items():
        named = [name for name in line if name.startswith("loss")]
        assert named == [name for name in by_step[1][step] if name.startswith("loss")]
        assert ("loss/long" in named) is (not 4 < step <= 8), step
        for name in named:
            assert by_step[1][step][name] == pytest.approx(line[name], abs=2e-5), (step, name)
        if "loss/long" not in named:
            assert line["loss/short"] == pytest.approx(line["loss"], rel=1e-6)
    evaluated = [line for line in read_metrics(tmp_path / "parts") if "val_loss" in line]
    for line in evaluated:
        assert {"val_loss/long", "val_loss/short"} <= line.keys()
        low, high = sorted((line["val_loss/long"], line["val_loss/short"]))
        assert low <= line["val_loss"] <= high


def test_other_data_is_taken_from_its_beginning_where_that_is_allowed(go, tmp_path):
    go(max_steps=2)
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 90, encoding="utf-8")
    allowed = {"data": other, "allow_data_change": True}
    first = go(max_steps=4, resume=True, **allowed)
    assert first.steps == 4
    (note,) = (note for note in first.notes if "not the run's" in note)
    assert note.startswith(
        "the data is not the run's: from step 3 on the run takes this data from its beginning, as "
        "epoch 1; "
    )
    assert re.search(
        r"; the text was [\d,]+ tokens of .* and is [\d,]+ tokens of \S+other.txt$", note
    )
    progress = open_checkpoint(first.checkpoint).progress
    assert (progress.epoch, progress.sample) == (0, 8)
    # It is the run's data from then on, and nothing has to be allowed any more.
    second = go(max_steps=5, resume=True, data=other)
    assert not [note for note in second.notes if "not the run's" in note]


CHANGES = {
    "text": ({}, "the text was .* tokens of .*book.* and is .* tokens of .*other.txt"),
    "documents": ({"documents": "lines"}, "the way of reading was .*'file' and is .*'lines'"),
    "val_data": ({"val_data": "other.txt"}, "the validation text was none and is .*other.txt"),
    "mixture": (
        {"mixture": True},
        "the text was .* and is .* [(]75.0%[)], .* [(]25.0%[)]",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_change_of_the_data_is_refused_and_named(go, corpus, tmp_path, case):
    """The fingerprint is of all that decides which tokens a run reads and holds out."""
    other = tmp_path / "other.txt"
    other.write_text(SENTENCE * 90, encoding="utf-8")
    book = tmp_path / "book.txt"
    book.write_text(SENTENCE * 90 + "\n" + SENTENCE * 20, encoding="utf-8")
    go(max_steps=2, data=book, val_fraction=0.0)
    options, said = CHANGES[case]
    data = [f"{book}:3", f"{other}:1"] if options.get("mixture") else other
    if case in ("documents", "val_data"):
        data = book
    options = {k: other if k == "val_data" else v for k, v in options.items() if k != "mixture"}
    with pytest.raises(HermesError) as refused:
        go(max_steps=4, resume=True, data=data, val_fraction=0.0, **options)
    assert "resume with the data that the run began with, or pass allow_data_change" in str(
        refused.value
    )
    assert re.search(said, str(refused.value))
    allowed = options | {"allow_data_change": True, "val_fraction": 0.0}
    done = go(max_steps=4, resume=True, data=data, **allowed)
    assert any(re.search(said, note) for note in done.notes)
