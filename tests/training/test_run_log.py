"""What a run says besides its files: verbose, quiet, and into a log file."""

import re

import pytest

import hermes
from hermes.errors import HermesError
from hermes_cli.main import run
from tests.training.support import SPEC, corpus_in

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    _, tokenizer = corpus_in(folder)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "little.mal").write_text(SPEC.replace("300", "290"))
    return folder


def go(folder, monkeypatch, output, *words):
    monkeypatch.chdir(folder)
    return run(
        [
            *("train", "--model", "little.mal", "--data", "text.txt", "--seq-len", "16"),
            *("--tokenizer", "tokenizer.json", "--batch-size", "4", "--backend", "torch"),
            *("--max-steps", "24", "--output", str(output), *words),
        ]
    )


def test_a_log_file_has_every_step_also_of_a_quiet_run(folder, tmp_path, monkeypatch, capfd):
    log = tmp_path / "run.log"
    words = ("--log-file", str(log), "--quiet")
    assert go(folder, monkeypatch, tmp_path / "run", *words, "--max-steps", "3") == 0
    assert capfd.readouterr() == ("", "")
    lines = log.read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    assert "from step 0 to 3, little, torch on cpu" in lines[0]
    assert sum(": loss " in line for line in lines) == 3
    assert "step 3: saved" in lines[-1]
    # It only grows, and says what ended a run.
    assert go(folder, monkeypatch, tmp_path / "run", *words, "--max-steps", "5", "--resume") == 0
    assert log.read_text().splitlines()[: len(lines)] == lines
    assert sum(": loss " in line for line in log.read_text().splitlines()) == 5
    capfd.readouterr()


def test_warnings_are_shown_of_a_quiet_run_too(folder, tmp_path, monkeypatch, capfd):
    words = ("--quiet", "--max-steps", "2", "--on-finish", "exit 3")
    warning = "Warning: --on-finish ended with 3\n"
    assert go(folder, monkeypatch, tmp_path / "run", *words) == 0
    assert capfd.readouterr() == ("", warning)
    hermes.train(
        SPEC.replace("300", "290"), folder / "text.txt", tokenizer=folder / "tokenizer.json",
        output=tmp_path / "python", max_steps=2, seq_len=16, quiet=True, on_finish="exit 3",
        backend="torch",
    )  # fmt: skip
    assert capfd.readouterr() == ("", warning)


def test_a_verbose_run_shows_every_step(folder, tmp_path, monkeypatch, capfd):
    assert go(folder, monkeypatch, tmp_path / "run", "--verbose") == 0
    shown = re.findall(r"step (\d+)/24  loss", capfd.readouterr().err)
    assert shown == [str(step) for step in range(1, 25)]


def test_both_are_refused(folder, tmp_path, monkeypatch, capfd):
    assert go(folder, monkeypatch, tmp_path / "run", "--verbose", "--quiet") == 1
    assert "--verbose and --quiet are both given; keep one" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    path, output = folder / "text.txt", tmp_path / "run"
    with pytest.raises(HermesError, match="are both given"):
        hermes.train(SPEC, path, output=output, verbose=True, quiet=True)


def test_a_log_file_that_cannot_be_written_is_refused(folder, tmp_path, monkeypatch, capfd):
    words = ("--log-file", str(tmp_path), "--max-steps", "2")
    assert go(folder, monkeypatch, tmp_path / "run", *words) == 74
    assert f"cannot write {tmp_path}" in capfd.readouterr().err


def test_quiet_is_of_one_start_and_not_of_the_run(folder, tmp_path, monkeypatch, capfd):
    output, log = tmp_path / "run", tmp_path / "run.log"
    words = ("--quiet", "--log-file", str(log), "--max-steps", "2")
    assert go(folder, monkeypatch, output, *words) == 0
    runfile = output / "run.yaml"
    assert not re.search("^(quiet|verbose|log_file):", runfile.read_text(), re.M)
    # As an earlier version wrote it.
    runfile.write_text(f"quiet: true\nlog_file: {log}\n{runfile.read_text()}")
    lines = log.read_text()
    capfd.readouterr()
    again = ("train", "--config", str(runfile), "--resume", "--max-steps", "3")
    assert run([*again, "--output", str(output)]) == 0
    assert "done: loss" in capfd.readouterr().err
    assert log.read_text() == lines
    # In a file of one's own it is what the file says.
    own = tmp_path / "own.yaml"
    own.write_text("quiet: true\n")
    assert go(folder, monkeypatch, output, "--resume", "--config", str(own)) == 0
    assert capfd.readouterr() == ("", "")
