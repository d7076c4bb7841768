"""How far it is from the command line to the optimizer step, seen from inside the step."""

import importlib
import sys
from pathlib import Path

import pytest

from hermes.tokenizer import train_tokenizer
from hermes_cli.main import run
from tests.cli.support import LITTLE, TEXT

MOST_FRAMES, MOST_FILES = 8, 6


def own_frames():
    """The frames of hermes' packages that are on the stack, outermost first: file and function."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0].startswith("hermes"):
            found.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


# MLX compiles clipping and update as one function.
@pytest.mark.parametrize(("backend", "update"), [("torch", "update"), ("mlx", "compute_update")])
def test_few_frames_lie_between_the_command_and_the_update(tmp_path, monkeypatch, backend, update):
    """`hermes train` reaches the optimizer's function in at most 8 frames of ours, in 6 files."""
    where = importlib.import_module(f"hermes_{backend}.optimizer").Optimizer
    plain, stacks = getattr(where, update), []

    def observe(*args, **more):
        stacks.append([*own_frames(), (plain.__code__.co_filename, update)])
        return plain(*args, **more)

    monkeypatch.setattr(where, update, observe)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "little.mal").write_text(LITTLE, encoding="utf-8")
    train_tokenizer([TEXT], vocab_size=270).save(tmp_path / "tokenizer.json")
    arguments = ["train", "--data", "text.txt", "--tokenizer", "tokenizer.json",
                 "--model", "little.mal", "--output", "run", "--seq-len", "16",
                 "--batch-size", "4", "--max-steps", "1", "--backend", backend]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 0
    stack = stacks[0]
    assert (Path(stack[0][0]).name, stack[0][1]) == ("main.py", "run")
    assert len(stack) <= MOST_FRAMES, stack
    assert len({file for file, _ in stack}) <= MOST_FILES, stack
