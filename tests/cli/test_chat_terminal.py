"""`hermes chat` as a person has it: a process whose input and output are a terminal."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

from tests.cli.support import HERMES
from tests.finetuning.support import small_checkpoint
from tests.waiting import PATIENCE

PROMPT = "\n>>> "


class Terminal:
    """A command in a terminal of its own. shown: all that it has printed."""

    def __init__(self, *arguments, folder):
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            [HERMES, *map(str, arguments)],
            stdin=other, stdout=other, stderr=other, cwd=folder, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        os.close(other)
        self.shown = ""

    def type(self, text, until=PROMPT):
        """Type keys; what is shown up to `until`, the keys themselves left out."""
        os.write(self._own, text if isinstance(text, bytes) else text.encode())
        return self.wait_for(until)

    def interrupt(self, until):
        """Send what Ctrl-C sends."""
        self.process.send_signal(signal.SIGINT)
        return self.wait_for(until)

    def wait_for(self, text):
        begin, end = len(self.shown), time.monotonic() + PATIENCE
        while text not in self.shown[begin:]:
            assert time.monotonic() < end, self.shown
            if select.select([self._own], [], [], 1)[0]:
                self._read()
        return self.shown[begin:]

    def _read(self):
        try:
            part = os.read(self._own, 1 << 16).decode("utf-8", "replace")
        except OSError:  # the command has ended
            raise AssertionError(self.shown) from None
        self.shown += part.replace("\r", "")

    def end(self):
        """Type Ctrl-D. -> the exit code"""
        os.write(self._own, b"\x04")
        return self.process.wait(PATIENCE)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("terminal"))


@pytest.fixture
def open_terminal(tmp_path):
    opened = []

    def start(*arguments):
        opened.append(Terminal(*arguments, folder=tmp_path))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def take_answer(shown):
    """The answer in what a turn shows: behind the echo of the keys, before the speed."""
    return re.split(r"\n\(\d+ tokens, ", shown.partition("\n")[2].removesuffix(PROMPT))[0]


@pytest.mark.parametrize(
    "backend", ["torch", pytest.param("mlx", marks=pytest.mark.long)]
)  # fmt: skip
def test_a_conversation_in_a_terminal(base, open_terminal, tmp_path, backend):
    talk = open_terminal("chat", "-c", base, "--backend", backend, "--max-tokens", 9,
                         "--temperature", 1)  # fmt: skip
    assert "/help shows the commands" in talk.wait_for(">>> ")
    first = talk.type("the cat\n")
    assert re.search(r"\n\(\d+ tokens, [\d.]+ a second\)\n", first)
    again = talk.type("/retry\n")
    assert take_answer(again) != take_answer(first)
    assert "forgotten: 'the cat' and its answer" in talk.type("/undo\n")
    assert take_answer(talk.type("the cat\n")) == take_answer(first)
    # A line that is no text is refused, and the conversation goes on.
    assert "\nError: the line is not UTF-8 (0xff)" in talk.type(b"caf\xff\n")
    assert "Error: there is no message yet" in talk.type("/reset\n") + talk.type("/undo\n")
    assert "the system prompt is set" in talk.type("/system be brief\n")
    talk.type('"""the\n', "... ")
    talk.type("dog \U0001f600\n", "... ")
    talk.type('ran"""\n')
    talk.type("a\\\n", "... ")
    talk.type("mat\n")
    assert "4 messages are saved in it" in talk.type("/save it\n")
    said = json.loads((tmp_path / "it").read_text(encoding="utf-8"))["messages"]
    assert [one["content"] for one in said if one["role"] != "assistant"] == [
        "be brief", "the\ndog \U0001f600\nran", "a\nmat"
    ]  # fmt: skip
    assert "no such command '/x'" in talk.type("/x\n")
    assert take_answer(talk.type('"""/quit"""\n'))  # is said, not done
    assert "temperature=0.5" in talk.type("/set temperature=0.5\n")
    talk.type("half a li", "half a li")
    talk.interrupt("/quit or Ctrl-D ends\n>>> ")  # which forgets the line
    assert talk.end() == 0
    assert "Traceback" not in talk.shown


@pytest.mark.long
def test_ctrl_c_ends_an_answer_and_a_termination_the_chat(base, open_terminal):
    talk = open_terminal("chat", "-c", base, "--backend", "torch", "--max-tokens", 100_000,
                         "--context-overflow", "slide", "--temperature", 1)  # fmt: skip
    talk.wait_for(">>> ")
    talk.type("the cat\n", "the cat\n")
    talk.interrupt("(stopped; that turn is forgotten)\n>>> ")
    assert "Error: there is no message yet" in talk.type("/undo\n")
    talk.process.send_signal(signal.SIGTERM)
    assert talk.process.wait(PATIENCE) == 130
    assert "Traceback" not in talk.shown


@pytest.mark.long
def test_without_a_checkpoint_the_models_here_are_offered(base, open_terminal, tmp_path):
    shutil.copytree(base, tmp_path / "models" / "one")
    talk = open_terminal("chat", "--backend", "torch", "--max-tokens", 4)
    shown = talk.wait_for("Which model? ")
    assert "1  models/one" in shown
    assert "n  train a small model now" in shown
    assert "answer a number from 1 to 1, n, or q to end" in talk.type(b"\xff\n", "Which model? ")
    talk.type("1\n", ">>> ")
    talk.type("the cat\n")
    assert talk.end() == 0
    again = open_terminal("chat")
    again.wait_for("Which model? ")
    again.type("q\n", "q\n")
    assert again.process.wait(PATIENCE) == 0
