"""A text and its tokenizer, made once; code that every Python runs first."""

import os
import subprocess

import pytest

from tests.distributed.support import HERMES


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    words = " ".join(f"{a}{b} {b}o{a}" for a in "bcdfghklm" for b in "aeiouy")
    (folder / "text.txt").write_text("\n".join(words[k:] + words[:k] for k in range(0, 200, 3)))
    command = [*HERMES, *["train-tokenizer", "--input", "text.txt", "--output", "tokenizer.json"]]
    subprocess.run([*command, "--vocab-size", "300"], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Runs a text in every Python that is started."""

    def plant(text):
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(text)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)

    return plant
