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
            found.append((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_few_frames_lie_between_the_command_and_the_optimizer_step(tmp_path, monkeypatch, backend):
    """`hermes train` reaches Learner.step in at most 8 frames of ours, in at most 6 files."""
    learner = importlib.import_module(f"hermes_{backend}.learner")
    plain, stacks = learner.Learner.step, []

    def step(self, batch, lr):
        stacks.append([*own_frames(), ("learner.py", "step")])
        return plain(self, batch, lr)

    monkeypatch.setattr(learner.Learner, "step", step)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "little.mal").write_text(LITTLE, encoding="utf-8")
    train_tokenizer([TEXT], vocab_size=270).save(tmp_path / "tokenizer.json")
    arguments = ["train", "--data", "text.txt", "--tokenizer", "tokenizer.json",
                 "--model", "little.mal", "--output", "run", "--seq-len", "16",
                 "--batch-size", "4", "--max-steps", "1", "--backend", backend]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 0
    (stack,) = stacks
    assert stack[0] == ("main.py", "run")
    assert len(stack) <= MOST_FRAMES, stack
    assert len({file for file, _ in stack}) <= MOST_FILES, stack
