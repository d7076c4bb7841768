"""A working directory, and the command line called in this process."""

from pathlib import Path

import pytest

from hermes.tokenizer import train_tokenizer
from hermes_cli.main import run
from tests.cli.support import LITTLE, TEXT, TRAIN


@pytest.fixture(scope="module")
def tokenizer_text():
    return train_tokenizer([TEXT], vocab_size=280).to_json()


@pytest.fixture
def here(tmp_path, monkeypatch, tokenizer_text):
    """A working directory with a text, a tokenizer and a little model in it."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("tokenizer.json").write_text(tokenizer_text, encoding="utf-8")
    Path("little.mal").write_text(LITTLE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run a command line in this process: exit code, standard output, standard error."""

    def one(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return one


@pytest.fixture
def trained(here, call):
    """The same with a run of four updates in run/."""
    code, _, err = call(*TRAIN, "--max-steps", 4, "--val-fraction", 0.1, "--lr", 1e-2)
    assert code == 0, err
    return here
