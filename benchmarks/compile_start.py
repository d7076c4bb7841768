"""What compiling costs at the first start of a command and at later ones, beside an eager start.

    python benchmarks/compile_start.py [--shape tiny|22m] [--backend torch|mlx] [--rounds 2]

One step of `hermes train`, a process each: eager, compiled with an empty folder of temporary
files, where torch and MLX keep what they have compiled, and compiled again with that folder as it
was left. Seconds by the clock and of processors, those of the compilers it started among them.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synthetic_text import make_paragraphs
from training import SHAPES, make_spec

from hermes import mal
from hermes.tokenizer import train_tokenizer

STEPS = 1


def prepare(folder, shape):
    """Write a model and its text. -> the options of the command"""
    *_, vocabulary, context, rows = SHAPES[shape]
    paragraphs = make_paragraphs()
    tokenizer = train_tokenizer(paragraphs, vocab_size=vocabulary).to_json()
    (folder / "text.txt").write_text("\n".join(paragraphs[:400]), encoding="utf-8")
    (folder / "model.mal").write_text(mal.dumps(make_spec(shape)), encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    return [
        *("--data", "text.txt", "--tokenizer", "tokenizer.json", "--model", "model.mal"),
        *("--seq-len", str(context), "--batch-size", str(rows), "--max-steps", str(STEPS)),
        *("--device", "cpu", "--precision", "float32", "--log-every", "1"),
        *("--cache-dir", "cache"),
    ]


def take(folder, line, temporary):
    """Run the command. -> its seconds by the clock, and of processors with those it started"""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "hermes", "train", *line],
        cwd=folder, env=os.environ | {"TMPDIR": str(temporary)}, check=True, capture_output=True,
    )  # fmt: skip
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("tiny", "22m"), action="append")
    parser.add_argument("--backend", choices=("torch", "mlx"), action="append")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    for shape in asked.shape or ("tiny", "22m"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            line = prepare(folder, shape)
            for backend in asked.backend or ("torch", "mlx"):
                for number in range(asked.rounds):
                    own = [*line, "--backend", backend, "--output"]
                    temporary, told = folder / f"{backend}-{number}", []
                    temporary.mkdir()
                    for kind in ("eager", "first", "second"):
                        mode = "--no-compile" if kind == "eager" else "--compile"
                        output = f"{backend}-{number}-{kind}"
                        seconds, processors = take(folder, [*own, output, mode], temporary)
                        told.append(f"{kind} {seconds:.1f} s ({processors:.1f} of processors)")
                    print(f"{shape}, {backend}: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
