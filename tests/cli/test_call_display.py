"""What `hermes eval` and `hermes prepare` show besides their result, and write into a log file."""

import re

import pytest

import hermes
from hermes.errors import HermesError
from hermes_cli.main import run
from tests.training.support import Runs, corpus_in

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("display")
    corpus = corpus_in(folder)
    corpus[1].save(folder / "tokenizer.json")
    Runs(corpus, folder)("base", max_steps=1)
    (folder / "other.txt").write_text("the cat sat on a mat " * 20)
    return folder


def test_an_evaluation_says_each_file_as_soon_as_it_is_known(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    command = ["eval", "--checkpoint", "base", "--data", "text.txt", "other.txt"]
    log = tmp_path / "eval.log"
    assert run([*command, "--log-file", str(log)]) == 0
    plain, shown = capfd.readouterr()
    assert run([*command, "--quiet", "--log-file", str(log)]) == 0
    assert capfd.readouterr() == (plain, "")
    assert run([*command, "--verbose"]) == 0
    out, err = capfd.readouterr()
    assert out == plain
    assert "evaluating 1 of 2, tokens\n" in err
    assert re.search(r"^text\.txt: loss \d\.\d{4} nats per token, perplexity ", err, re.M)
    assert "of 2, tokens" not in shown
    lines = log.read_text().splitlines()
    assert len(lines) % 2 == 0  # of both calls
    assert all(re.match(f"{STAMP}eval base: ", line) for line in lines)
    assert sum("other.txt: loss" in line for line in lines) == 2


def test_a_failure_is_the_last_line(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    log = tmp_path / "eval.log"
    assert run(["eval", "--checkpoint", "none", "other.txt", "--log-file", str(log)]) == 1
    *_, line = log.read_text().splitlines()
    assert re.match(rf"{STAMP}ended by \w+: none", line)
    assert run(["eval", "--checkpoint", "base", "other.txt", "--verbose", "--quiet"]) == 1
    assert "--verbose and --quiet are both given; keep one" in capfd.readouterr().err


def test_preparing_says_its_stages_and_its_result(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    log = tmp_path / "prepare.log"

    def prepare(name, *words):
        output = str(tmp_path / name)
        command = ["prepare", "text.txt", "--tokenizer", "tokenizer.json", "--output", output]
        assert run([*command, "--workers", "1", *words]) == 0
        return capfd.readouterr()

    plain = prepare("plain")
    quiet = prepare("quiet", "--quiet", "--log-file", str(log))
    verbose = prepare("verbose", "--verbose")
    assert quiet == ("", "")
    assert plain.err.splitlines()[-1].endswith("in 1 shard")
    assert verbose.err.splitlines()[-1] == plain.err.splitlines()[-1].replace("plain", "verbose")
    assert "tokenizing" in verbose.err
    lines = log.read_text().splitlines()
    assert all(re.match(f"{STAMP}prepare .*quiet: ", line) for line in lines)
    assert lines[-1].endswith("in 1 shard")
    assert any("tokenizing" in line for line in lines)
    with pytest.raises(HermesError, match=r"verbose.* and .*quiet.* are both given"):
        hermes.prepare("text.txt", output=tmp_path / "both", verbose=True, quiet=True)
