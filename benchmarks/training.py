"""Training speed and memory of each backend beside other libraries, alternating in one run.

    python benchmarks/training.py [--shape tiny|22m|gpt2] [--precision float32|bfloat16]
        [--mode eager] [--mode compiled] [--only NAME] [--rounds 5] [--device cpu]

Every library trains the same Llama on the same batch: the loop that nanoGPT has, transformers,
litgpt and mlx-lm, those of them that this Python has. Each is a process of its own, eager and
compiled, so that its peak memory is its own; one at a time takes a step while the others wait,
round by round. Printed are medians of tokens/s by the clock and of a step's seconds on the CPU, of
all threads, which others' work changes less; and for each of ours its speed over the best peer's in
any mode: of torch's peers for torch, of mlx-lm for MLX. Only ratios can be compared between
machines.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
from device_peers import list_peers, make_peer_step

from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec

# layers, width, heads, feed-forward, vocabulary, context, rows
SHAPES = {
    "tiny": (4, 128, 4, 352, 8000, 256, 32),
    "22m": (8, 384, 6, 1024, 16000, 512, 8),
    "gpt2": (12, 768, 12, 2048, 50257, 512, 4),
}
OURS = {"hermes on torch": "torch", "hermes on mlx": "mlx"}
MODES = ("eager", "compiled")


def make_spec(shape):
    """Make a Llama of this shape with a tied head."""
    layers, width, heads, hidden, vocabulary, context, _ = SHAPES[shape]
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    tied = EmbeddingsSpec(tie_weights=True)
    return ModelSpec((block,), "bench", "", vocabulary, context, width, layers, tied)


def make_batch(shape):
    """Make the one batch that everyone learns: int32, (1, rows, context) twice."""
    vocabulary, context, rows = SHAPES[shape][4:]
    ids = np.random.default_rng(0).integers(0, vocabulary, (1, rows, context + 1)).astype(np.int32)
    return Batch(ids[..., :-1], ids[..., 1:].copy(), np.arange(rows, dtype=np.uint32)[None])


def make_step(name, chosen, mode):
    """Make a function that takes one update of a library and waits for its loss."""
    spec, batch, compiled = make_spec(chosen.shape), make_batch(chosen.shape), mode == "compiled"
    backend = OURS.get(name) or ("mlx" if name == "mlx-lm" else "torch")
    device = chosen.device if backend == "torch" else None
    if name in OURS:
        state = TrainState(init_weights(spec, 0), {}, {}, 0)
        options = Options(device=device, precision=chosen.precision, compile=compiled)
        learner = find_backend(backend).learner(spec, state, Recipe(), options)
        return lambda: float(learner.step(batch, 3e-4).loss)
    setting = SimpleNamespace(
        backend=backend, device=device or "cpu", precision=chosen.precision,
        length=SHAPES[chosen.shape][5], is_compiled=lambda peer: compiled,
    )  # fmt: skip
    return make_peer_step(name, setting, spec, batch)


def serve_steps(chosen, name, mode):
    """Take a step for every line of standard input; answer its seconds by the clock and of the CPU.

    At the end, the peak memory.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    step = make_step(name, chosen, mode)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        start, worked = time.perf_counter(), time.process_time()
        step()
        seconds = time.perf_counter() - start, time.process_time() - worked
        print(*seconds, file=answers, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=answers, flush=True)


class Contender:
    """A library in one mode, in a process that takes a step when it is asked."""

    def __init__(self, name, mode):
        self.name, self.mode, self.seconds = name, mode, []
        self._process = subprocess.Popen(
            [sys.executable, *sys.argv, "--serve", name, mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        )  # fmt: skip
        self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}, {self.mode}: ended with {self._process.wait()}")
        return line.strip()

    def take_step(self):
        """Take one step and return its seconds, by the clock and of the CPU."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return tuple(map(float, self._read().split()))

    def end(self):
        """End the process and return its peak memory in bytes."""
        self._process.stdin.close()
        peak = int(self._read())
        self._process.wait()
        return peak


def parse_arguments():
    """What is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*OURS, *list_peers("torch"), *list_peers("mlx")]
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--mode", action="append", choices=MODES, help="Both by default.")
    parser.add_argument("--only", action="append", choices=names, help="All by default.")
    parser.add_argument("--device", default="cpu", help="Of torch; MLX takes its own.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(), names


def main():
    """Measure and print."""
    chosen, names = parse_arguments()
    if chosen.serve:
        serve_steps(chosen, *chosen.serve)
        return
    spec, (context, rows) = make_spec(chosen.shape), SHAPES[chosen.shape][5:]
    print(
        f"{chosen.shape}: {count_parameters(spec):,} parameters, {rows} x {context} tokens a step, "
        f"{chosen.precision}, {os.cpu_count()} cores",
        flush=True,
    )
    ran = [Contender(name, mode) for name in chosen.only or names for mode in chosen.mode or MODES]
    for turn in range(chosen.rounds + 2):
        first = turn % len(ran)
        for one in ran[first:] + ran[:first]:
            seconds = one.take_step()
            if turn > 1:  # two to warm up: compilers and caches
                one.seconds.append(seconds)
    print_results(ran, rows * context)


def print_results(ran, tokens):
    """Print a line for each, and our ratios to the best peers."""
    best = {}
    for one in ran:
        kind = OURS.get(one.name) or ("mlx" if one.name == "mlx-lm" else "torch")
        one.kind = kind
        one.median, one.worked = map(statistics.median, zip(*one.seconds, strict=True))
        if one.name not in OURS:
            best[kind] = min(best.get(kind, one.median), one.median)
    for one in ran:
        ratio = ""
        if one.name in OURS and one.kind in best:
            ratio = f"{best[one.kind] / one.median:.2f} times the best peer"
        speed, peak = tokens / one.median, one.end() / 1e6
        line = f"  {one.name:16}{one.mode:9}{speed:9,.0f} tokens/s  {one.worked:7.2f} CPU s a step"
        print(f"{line}  {peak:7,.0f} MB  {ratio}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
