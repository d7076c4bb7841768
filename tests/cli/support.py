"""A small text and model, and hermes as a process."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until

HERMES = Path(sys.executable).parent / "hermes"

TEXT = "the cat sat on a mat and then it ran off to see what else there was " * 60
LITTLE = """model little { max_seq_len: 32 hidden_size: 16 num_layers: 1
  block: { attention: { num_heads: 2 } ffn: { hidden_dim: 24 } } }"""

TRAIN = ("train", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "little.mal",
         "--output", "run", "--seq-len", 16, "--batch-size", 4)  # fmt: skip


def refuses(call, code, message, *arguments):
    got, out, err = call(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert (got, lines, out) == (code, [f"Error: {message}"], "")
    assert "Traceback" not in err


def process(*arguments, environment=None, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    return subprocess.Popen(
        [HERMES, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def wait_for_step(metrics, step, training=None):
    """Wait until a run has logged so many steps. training: its process, where that is ours."""

    def has_come():
        return metrics.exists() and len(metrics.read_text().splitlines()) >= step

    wait_until(has_come, process=training)


def drop_stages(said):
    """What a command said, without the lines of what took longer than a moment."""
    return re.sub(r"^[^\n]*, \d+ s(, [\d:]+ left)?\n", "", said, flags=re.MULTILINE)


def read_terminal(parent):
    """All that was written to a terminal, once nobody has it open for that any more."""
    parts = []
    while True:
        try:
            parts.append(os.read(parent, 1 << 16))
        except OSError:  # the other end is closed
            break
        if not parts[-1]:
            break
    return b"".join(parts).decode()


def piped(text, *arguments):
    return subprocess.run(
        [HERMES, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
