"""A working directory, and the command line called in this process."""

from pathlib import Path

import pytest

from hermes.tokenizer import train_tokenizer
from hermes_cli.main import run
from tests.cli.support import LITTLE, TEXT, TRAIN
from tests.finetuning.support import TEXT as TUNING_TEXT
from tests.finetuning.support import small_checkpoint, some_chats, some_pairs, write_lines


@pytest.fixture(scope="module")
def tokenizer_text():
    return train_tokenizer([TEXT], vocab_size=280).to_json()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small checkpoint, conversations, pairs and text to tune it with."""
    folder = tmp_path_factory.mktemp("commands")
    small_checkpoint(folder / "base")
    write_lines(folder / "chat.jsonl", some_chats())
    write_lines(folder / "prefs.jsonl", some_pairs())
    (folder / "text.txt").write_text(TUNING_TEXT * 9)
    return folder


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
