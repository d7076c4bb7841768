"""Modules that lie in the working folder, of whoever made it, are not run in place of Python's."""

import os
import subprocess
import sys

import pytest

from tests.cli.support import HERMES, LITTLE, TEXT
from tests.finetuning.support import small_tokenizer

NAMES = (
    *("json", "struct", "random", "pickle", "socket", "signal", "threading", "logging", "copyreg"),
    *("multiprocessing", "subprocess", "tempfile", "runpy", "numpy", "torch", "mlx", "tokenizers"),
    *("yaml", "jinja2", "hermes", "hermes_cli", "hermes_torch", "hermes_mlx", "selectors"),
)


@pytest.fixture
def folder(tmp_path):
    """Text, a tokenizer and a model, among files that leave word when they are run."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    word = f"import os\nopen({str(tmp_path / 'run')!r}, 'a').write(__file__)\nos._exit(9)\n"
    for name in NAMES:
        (folder / f"{name}.py").write_text(word)
    (folder / "text.txt").write_text(TEXT * 9, encoding="utf-8")
    (folder / "little.mal").write_text(LITTLE, encoding="utf-8")
    small_tokenizer().save(folder / "tokenizer.json")
    return folder


TRAIN = [
    *("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "little.mal"),
    *("--output", "run", "--seq-len", "16", "--batch-size", "2", "--max-steps", "1"),
    *("--device", "cpu", "--num-processes", "2"),
]
PREPARE = [
    *("prepare", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--output", "prepared"),
    *("--workers", "2"),
]


@pytest.mark.parametrize(
    "words",
    [
        PREPARE,
        [*TRAIN, "--backend", "mlx"],
        pytest.param([*TRAIN, "--backend", "torch"], marks=pytest.mark.long),
    ],
    ids=["prepare", "mlx", "torch"],
)
def test_processes_that_a_command_starts_take_no_module_from_the_working_folder(folder, words):
    done = subprocess.run(
        [HERMES, *words],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    ran = folder.parent / "run"
    assert not ran.exists(), ran.read_text()
    assert done.returncode == 0, done.stderr


def test_a_process_that_is_started_plainly_takes_them(folder):
    """Or the test above shows nothing."""
    subprocess.run([sys.executable, "-c", "import json"], cwd=folder, check=False)
    assert (folder.parent / "run").read_text() == str(folder / "json.py")
