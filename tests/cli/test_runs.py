"""Runs from the command line: begun, gone on with, and their files of options."""

import json
import shutil
from pathlib import Path

import pytest

from hermes.training.metrics_file import read_metrics
from tests.cli.support import TRAIN, refuses


def test_an_output_with_a_run_in_it_asks_for_resume(trained, call):
    refuses(call, 1, "run 'run' already has step 4; choose another directory or pass --resume",
            *TRAIN)  # fmt: skip


def test_a_fresh_model_takes_the_size_of_the_tokenizer_and_says_so(here, call):
    _, _, err = call(*TRAIN, "--max-steps", 1)
    assert "vocab_size is 280, the tokenizer's; little has 32000\n" in err


def test_a_finished_run_is_done_in_one_line(trained, call):
    code, out, err = call("train", "--resume", "--output", "run")
    assert (code, out) == (0, "")
    assert err == "run run is finished at step 4; nothing is left to do\n"


def test_nothing_to_resume_is_said_and_starts_fresh(here, call):
    code, _, err = call(*TRAIN, "--max-steps", 1, "--resume")
    assert code == 0
    assert "nothing to resume in run; the run starts fresh\n" in err
    assert Path("run/step-00000001").is_dir()


def test_auto_resume_is_one_command_that_begins_a_run_and_goes_on_with_it(here, call):
    arguments = [*TRAIN, "--max-steps", 2, "--auto-resume"]
    for words in ("the run starts fresh", "run run is finished at step 2"):
        code, _, err = call(*arguments)
        assert code == 0, err
        assert words in err
    code, _, err = call(*arguments[:-2], 3, "--auto-resume")
    assert "resuming from step 2, written by torch\n" in err


def test_a_run_without_its_metrics_says_so_when_it_goes_on(here, call):
    assert call(*TRAIN, "--max-steps", 2)[0] == 0
    metrics = here / "run/metrics.jsonl"
    metrics.unlink()
    going = ("train", "--resume", "--output", "run", "--max-steps")
    said = "run/metrics.jsonl is gone, and with it the lines up to step 2; a new one begins"
    code, _, err = call(*going, 3)
    assert (code, err.splitlines().count(said)) == (0, 1)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [3]
    assert "is gone" not in call(*going, 4)[2]


def test_a_run_that_was_begun_and_never_saved_begins_again_as_it_was(here, call):
    """Killed before its first checkpoint: its file still says with what it was begun."""
    tokenizer = ["--train-tokenizer", "--tokenizer", "own.json", "--vocab-size", 270]
    code, _, err = call(*TRAIN[:3], *tokenizer, *TRAIN[5:], "--max-steps", 2, "--lr", 1e-2,
                        "--set", "optimizer.beta2=0.98")  # fmt: skip
    assert code == 0, err
    record = read_metrics(Path("run"))
    shutil.rmtree("run/step-00000002")
    code, _, err = call("train", "--auto-resume", "--output", "run")
    assert code == 0, err
    again = read_metrics(Path("run"))
    assert [line["loss"] for line in again] == [line["loss"] for line in record]
    progress = json.loads(Path("run/step-00000002/progress.json").read_text())
    assert progress["recipe"]["optimizer"]["beta2"] == 0.98


def test_another_batch_is_allowed_by_a_flag_and_said(trained, call):
    resume = ["train", "--resume", "--output", "run", "--max-steps", 6, "--batch-size", 8]
    code, _, err = call(*resume)
    assert code == 1
    assert "keep the product, or pass --allow-batch-change: from step 5 on" in err
    code, _, err = call(*resume, "--allow-batch-change")
    assert code == 0, err
    assert "from step 5 on a step takes 8 sequences instead of 4, at learning rates" in err
    assert [line["tokens"] for line in read_metrics(Path("run")) if "loss" in line] == [
        64, 128, 192, 256, 384, 512,
    ]  # fmt: skip


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_deterministic_run_stays_one_when_it_goes_on(here, call, backend):
    how = ["--device", "cpu", "--backend", backend]
    code, _, err = call(*TRAIN, "--max-steps", 2, "--deterministic", *how)
    assert code == 0, err
    assert "deterministic: true  # command line" in Path("run/run.yaml").read_text()
    code, _, err = call("train", "--resume", "--output", "run", "--max-steps", 3, *how)
    assert code == 0, err
    assert "deterministic: true  # run/run.yaml" in Path("run/run.yaml").read_text()


def test_a_run_goes_on_with_its_own_options(trained, call):
    code, _, err = call("train", "--resume", "--output", "run", "--max-steps", 6, "--backend",
                        "mlx")  # fmt: skip
    assert code == 0
    assert "the run ends at step 6, where it would have ended at 4\n" in err
    assert "resuming from step 4, written by torch\n" in err
    lines = read_metrics(Path("run"))
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert {line["lr"] for line in lines if "lr" in line} == {1e-2}


def test_a_runs_file_gives_the_same_run_again(trained, call):
    code, _, err = call("train", "--config", "run/run.yaml", "--output", "again")
    assert code == 0, err
    first, second = (Path(name, "metrics.jsonl").read_text() for name in ("run", "again"))

    def losses(text):
        return [json.loads(line).get("loss") for line in text.splitlines()]

    assert losses(first) == losses(second)


def test_numbers_of_a_file_of_options_are_numbers_however_written(here, call):
    Path("c.yaml").write_text("lr: 1e-4\nmax-steps: 1\nset: {optimizer.beta2: 0.9}\n")
    code, _, err = call(*TRAIN, "--config", "c.yaml")
    assert code == 0, err
    (line,) = read_metrics(Path("run"))
    assert line["lr"] == 1e-4
    assert "optimizer.beta2: 0.9\n" in Path("run/run.yaml").read_text()


def test_the_command_line_wins_over_the_file(here, call):
    Path("c.yaml").write_text("lr: 1e-4\nmax_steps: 1\n")
    call(*TRAIN, "--config", "c.yaml", "--lr", "0.5")
    (line,) = read_metrics(Path("run"))
    assert line["lr"] == 0.5
    record = Path("run/run.yaml").read_text()
    assert "lr: 0.5  # command line\n" in record
    assert "max_steps: 1  # c.yaml\n" in record


def test_the_architecture_is_edited_with_set(here, call):
    call(*TRAIN, "--max-steps", 1, "--set", "model.num_layers=3")
    assert "num_layers: 3" in Path("run/step-00000001/model.mal").read_text()


def test_a_run_that_bursts_ends_with_70(here, call):
    code, _, err = call(*TRAIN, "--max-steps", 50, "--lr", "1e38", "--grad-clip", 0)
    assert code == 70
    assert err.splitlines()[-1].startswith("Error: step ")


def test_a_mixture_with_names_and_changing_weights_is_written_in_a_file(here, call):
    options = [word for word in TRAIN if word not in ("--data", "text.txt")]
    text = Path("text.txt").read_text()
    Path("other.txt").write_text(text[::-1])
    Path("c.yaml").write_text(
        "data:\n  plain: {files: text.txt, weight: 1}\n  turned: {files: [other.txt], weight: 1}\n"
        "  schedule: {1: {plain: 0}}\n"
    )
    code, _, err = call(*options, "--config", "c.yaml", "--max-steps", 2)
    assert code == 0, err
    assert "turned: 50.0% of the samples, 100.0% from step 1 on, " in err
    first, second = [line for line in read_metrics(Path("run")) if "loss" in line]
    assert {"loss/plain", "loss/turned"} & first.keys()
    assert [name for name in second if name.startswith("loss/")] == ["loss/turned"]
    written = Path("run/run.yaml").read_text()
    assert f'data: ["plain={here}/text.txt:1,0@1", "turned={here}/other.txt:1"]' in written
    code, _, err = call("train", "--config", "run/run.yaml", "--output", "again")
    assert code == 0, err
    again = [line for line in read_metrics(Path("again")) if "loss" in line]
    assert [line["loss"] for line in again] == [first["loss"], second["loss"]]
    Path("c.yaml").write_text("data: {plain: {file: text.txt, weight: 1}}\n")
    refuses(call, 1, "c.yaml: data.plain: unknown key 'file'; did you mean 'files'?",
            *options, "--config", "c.yaml", "--output", "third")  # fmt: skip


def test_a_run_in_which_no_step_was_applied_ends_with_a_whole_sentence(here, call):
    given = ("--max-steps", 2, "--precision", "float16", "--loss-scale", 1e30)
    code, _, err = call(*TRAIN, *given)
    assert code == 0, err
    assert err.endswith(
        "done: no loss to report, as no logged step was applied; run/step-00000002\n"
    )
