"""A small text and model, and hermes as a process."""

import os
import subprocess
import sys
import time
from pathlib import Path

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


def wait_for_step(metrics, step):
    for _ in range(1200):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= step:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not begin")


def piped(text, *arguments):
    return subprocess.run(
        [HERMES, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
