"""Try an installed hermes from end to end, as a stranger would: `make wheel` runs it.

Run with `python -I` from a folder without a checkout: what is imported is what the wheel holds.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import hermes

TEXT = "\n\n".join(topics[name] for name in sorted(topics))[:100_000]
COMMANDS = """\
doctor
info --model nano
train-tokenizer --input book.txt --output tokenizer.json --vocab-size 512
train --data book.txt --tokenizer tokenizer.json --model nano --output run --max-steps 3 \
    --batch-size 4 --seq-len 32 --backend torch
train --data book.txt --output run --max-steps 6 --resume --backend mlx
checkpoint verify run
generate --checkpoint run --prompt The --max-tokens 8
convert run exported --to hermes --dtype bfloat16
conformance run --backend mlx --level L0
"""


def try_wheel() -> None:
    """Run every command, and end with the first that fails."""
    installed = Path(hermes.__file__).resolve()
    if Path(sys.prefix).resolve() not in installed.parents:
        sys.exit(f"Error: hermes comes from {installed}, not from the wheel in {sys.prefix}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "book.txt").write_text(TEXT, encoding="utf-8")
        for command in map(str.split, COMMANDS.splitlines()):
            print("$ hermes", *command, flush=True)
            subprocess.run([Path(sys.prefix, "bin", "hermes"), *command], cwd=folder, check=True)
    print(f"hermes {hermes.__version__} works from {installed.parent}")


if __name__ == "__main__":
    try_wheel()
