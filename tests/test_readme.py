"""What the README shows is run, as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples, as a reader has; the book is part of Python's own manual."""
    from pydoc_data.topics import topics

    made = tmp_path_factory.mktemp("readme")
    text = "\n\n".join(topics[name] for name in sorted(topics))
    (made / "book.txt").write_text(text[:100_000], encoding="utf-8")
    return made


def run(command, folder):
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": bin_first, "PYTHONWARNINGS": "error::DeprecationWarning"},
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_five_lines_work(folder):
    (text,) = blocks("bash")
    outputs = [run(shlex.split(line), folder) for line in text.splitlines()]
    assert "4,194,624" in outputs[1]
    assert outputs[-1].strip()
    steps = sorted(path.name for path in (folder / "run").glob("step-*"))
    assert steps == ["step-00000020", "step-00000030"]


def test_the_python_example_works(folder):
    (text,) = blocks("python")
    (folder / "example.py").write_text(text, encoding="utf-8")
    assert re.search(r"\(1, \d+, 1000\)$", run([sys.executable, "example.py"], folder).strip())


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_architecture_shown_is_right(folder, page):
    shown = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    (text,) = [text for _, text in shown if text.startswith("model ")]
    (folder / "small.mal").write_text(text, encoding="utf-8")
    assert "small" in run(["hermes", "mal", "check", "small.mal"], folder)
    run(["hermes", "mal", "format", "--check", "small.mal"], folder)


def test_every_file_that_is_named_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_map_names_what_there_is():
    (text,) = [text for _, text in BLOCKS if text.startswith("hermes/ ")]
    for top in re.findall(r"^(\w+)/", text, re.MULTILINE):
        assert (ROOT / top).is_dir(), top
    for name in re.findall(r"^  (?:  )?([\w/.]+(?:  ?[\w/.]+)*)", text, re.MULTILINE):
        for part in name.split():
            found = [ROOT / base / part for base in ("hermes", "backends")]
            assert any(path.exists() for path in found), part
