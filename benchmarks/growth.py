"""Speed and memory of training as context, depth, width, vocabulary, batch and data grow.

    python benchmarks/growth.py [--backend torch] [--axis context] [--output benchmarks/RESULTS.md]

One axis grows at a time, from a small model on one thread. Each axis is a process, with a deadline.
Seconds are those of the processor, the least of a few steps: other work on the machine only adds to
the clock. `operations` are those of hermes.model_info.cost, attention's included, so what grows as
the model does keeps its GFLOP/s. Memory is the most that a step had above what was there before the
model; what glibc keeps for a learner's next step (hermes/host_allocator.py) is given back once the
learner is gone, before the next size. Of data: preparing text, and then drawing batches of it, in
tokens per second.

--output writes the tables there, growth.json beside it, from which a later run of one axis fills
what it does not measure, and growth.png.
"""

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BACKENDS = ("torch", "mlx")
AXES = {
    "context": (128, 256, 512, 1024, 2048, 4096, 8192),
    "depth": (1, 2, 4, 8, 16),
    "width": (64, 128, 256, 512),
    "vocabulary": (1_000, 4_000, 16_000, 64_000, 256_000),
    "batch": (1, 4, 16, 64),
    "data": (1, 4, 16),  # MB of text
}
HEAD = 64
TOKENS = 8192  # of a step whose context grows
MOST_ROUNDS, SECONDS = 1, 6.0  # steps after the first, until so many processor seconds are spent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# A growth of the time per operation by more than this, over a doubling, is named.
NOTABLE = 1.3


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    context: int = 128
    depth: int = 2
    width: int = 64
    vocabulary: int = 1000
    batch: int = 4


def make_shape(axis, size):
    """The small model with one axis at a size."""
    if axis == "context":
        return Shape(context=size, batch=max(TOKENS // size, 1))
    return Shape(**{axis: size})


def make_spec(shape):
    """A Llama of the shape."""
    from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

    heads = max(shape.width // HEAD, 1)
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=shape.width * 11 // 4))
    return ModelSpec(
        (block,), "growth", "", shape.vocabulary, shape.context, shape.width, shape.depth
    )


def read_status(name):
    """A number of /proc/self/status, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


def measure_step(backend, shape):
    """Processor seconds of a step, its tokens and operations, and its peak memory."""
    from hermes.interface import Batch, Options, TrainState
    from hermes.model_info.cost import count_flops
    from hermes.numerics.params import init_weights
    from hermes.recipe import Recipe

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, spec = read_status("VmRSS"), make_spec(shape)
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    learner = backend.learner(spec, state, Recipe(), Options(device="cpu", compile=False))
    size = (1, shape.batch, shape.context + 1)
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, size, np.int32)
    batch = Batch(ids[..., :-1], ids[..., 1:].copy(), np.arange(shape.batch, dtype=np.uint32)[None])
    seconds = []
    while len(seconds) <= MOST_ROUNDS and (len(seconds) < 2 or sum(seconds) < SECONDS):
        begun = time.process_time()
        report = learner.step(batch, 1e-4)
        float(report.loss), float(report.grad_norm)
        last = learner.state().exp_avg_sq  # MLX has the loss before it has updated
        last[list(last)[-1]]
        seconds.append(time.process_time() - begun)
    tokens = shape.batch * shape.context
    return {
        "seconds": min(seconds[1:]),
        "tokens": tokens,
        "operations": tokens * count_flops(spec, training=True, length=shape.context),
        "memory": read_status("VmHWM") - before,
    }


def count_seconds():
    """Processor seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def measure_data(megabytes):
    """Preparing text of a size, and drawing batches of it."""
    from synthetic_text import make_paragraphs, write_documents

    from hermes.data import Cursor, TextDataset
    from hermes.data.prepared import open_prepared, prepare_tokens
    from hermes.tokenizer import train_tokenizer

    paragraphs = make_paragraphs()
    tokenizer = train_tokenizer(paragraphs[:200], vocab_size=2000)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.jsonl")
        with text.open("w", encoding="utf-8") as file:
            write_documents(paragraphs, file, megabytes * 1_000_000)
        del paragraphs
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before, begun = read_status("VmRSS"), count_seconds()
        prepare_tokens(text, tokenizer, Path(folder, "out"), workers=1)
        prepared = count_seconds() - begun
        stream = open_prepared(Path(folder, "out"))
        dataset = TextDataset(stream, seq_len=128, vocab_size=tokenizer.vocab_size)
        cursor, rounds = Cursor(), 300
        begun = time.process_time()
        for _ in range(rounds):
            _, cursor = dataset.draw_batch(cursor, samples=16, micro_batch=16, accum=1)
        drawn = time.process_time() - begun
        return {
            "seconds": prepared,
            "tokens": len(stream),
            "draws": rounds * 16 * 128 / drawn,
            "memory": read_status("VmHWM") - before,
        }


def run_axis(asked):
    """Measure one axis in this process, a line of JSON for each size."""
    from hermes.interface import find_backend

    backend = None if asked.axis[0] == "data" else find_backend(asked.backend[0])
    for size in AXES[asked.axis[0]]:
        axis = asked.axis[0]
        found = measure_data(size) if axis == "data" else None
        found = found or measure_step(backend, make_shape(axis, size))
        print(json.dumps({"size": size, **found}), flush=True)


def measure(backend, axis, deadline):
    """Measure an axis in a process of its own; as many sizes as it reached."""
    command = [sys.executable, __file__, "--work", "--backend", backend, "--axis", axis]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            told, _ = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
    lines = [line for line in told.splitlines() if line.startswith("{") and line.endswith("}")]
    if len(lines) < len(AXES[axis]):
        print(f"{backend} {axis}: {len(lines)} of {len(AXES[axis])} sizes", file=sys.stderr)
    return [json.loads(line) for line in lines]


def find_notable(points):
    """Doublings, or what stands for them, in which an operation became notably slower."""
    found = []
    for one, other in itertools.pairwise(points):
        work = "operations" if "operations" in one else "tokens"
        slower = (other["seconds"] / other[work]) / (one["seconds"] / one[work])
        if slower > NOTABLE:
            found.append((one["size"], other["size"], slower))
    return found


def format_table(axis, measured):
    """The figures of an axis, as a table of Markdown."""
    title = {"data": "MB of text"}.get(axis, axis)
    names = [name for name in (*BACKENDS, "data") if measured.get(name, {}).get(axis)]
    if axis == "data":
        lines = [
            f"| {title} | prepared tokens/s | drawn tokens/s | memory, MB |",
            "|---|" + "---|" * 3,
        ]
        for one in measured["data"]["data"]:
            rate = one["tokens"] / one["seconds"]
            lines.append(
                f"| {one['size']} | {rate:,.0f} | {one['draws']:,.0f} | {one['memory']:,.0f} |"
            )
        return "\n".join(lines)
    head = "".join(f" {name} tokens/s | GFLOP/s | memory, MB |" for name in names)
    lines = [f"| {title} |{head}", "|---|" + "---|" * 3 * len(names)]
    for at, size in enumerate(AXES[axis]):
        line = f"| {size:,} |"
        for name in names:
            points = measured[name][axis]
            if at >= len(points):
                line += " | | |"
                continue
            one = points[at]
            rate, speed = one["tokens"] / one["seconds"], one["operations"] / one["seconds"] / 1e9
            line += f" {rate:,.0f} | {speed:,.1f} | {one['memory']:,.0f} |"
        lines.append(line)
    return "\n".join(lines)


def plot(measured, path):
    """Time per token above, memory below, both over the size of each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = [axis for axis in AXES if any(found.get(axis) for found in measured.values())]
    figure, rows = pyplot.subplots(2, len(axes), figsize=(3.0 * len(axes), 5.6), squeeze=False)
    for at, axis in enumerate(axes):
        for name in (*BACKENDS, "data"):
            points = measured.get(name, {}).get(axis) or []
            sizes = [one["size"] for one in points]
            costs = [one["seconds"] / one["tokens"] * 1e6 for one in points]
            drawn = {"label": name, "marker": "o", "markersize": 3.5}
            if points:
                drawn |= {"color": {"torch": "C1", "mlx": "C0", "data": "C2"}[name]}
                rows[0][at].plot(sizes, costs, **drawn)
                rows[1][at].plot(sizes, [one["memory"] for one in points], **drawn)
        title = {"data": "data (MB of text)", "context": "context (8,192 tokens a step)"}
        rows[0][at].set_title(title.get(axis, axis), fontsize=10)
        for row in rows:
            row[at].set_xscale("log", base=2)
            row[at].set_yscale("log")
            row[at].grid(alpha=0.3)
            row[at].tick_params(labelsize=8)
        rows[0][at].legend(fontsize=8)
    rows[0][0].set_ylabel("processor µs a token")
    rows[1][0].set_ylabel("memory, MB")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main(arguments=None):
    """Measure and print, or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", action="append", choices=(*BACKENDS, "data"))
    parser.add_argument("--axis", action="append", choices=AXES)
    parser.add_argument("--deadline", type=float, default=180.0, help="seconds of an axis")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.work:
        run_axis(asked)
        return
    kept = asked.output.with_name("growth.json") if asked.output else None
    measured = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for axis in asked.axis or AXES:
        for name in ("data",) if axis == "data" else asked.backend or BACKENDS:
            measured.setdefault(name, {})[axis] = measure(name, axis, asked.deadline)
            for first, last, slower in find_notable(measured[name][axis]):
                print(f"{name} {axis} {first} to {last}: an operation takes {slower:.2f} times")
            if kept:
                kept.write_text(json.dumps(measured, indent=1) + "\n")
    tables = "\n\n".join(
        f"## {axis}\n\n{format_table(axis, measured)}"
        for axis in AXES
        if any(axis in found for found in measured.values())
    )
    print(tables)
    if kept:
        head, mark, _ = (
            asked.output.read_text() if asked.output.exists() else "# Growth\n\n<!-- tables -->\n"
        ).partition("<!-- tables -->\n")
        asked.output.write_text(f"{head}{mark}\n{tables}\n")
        plot(measured, asked.output.with_name("growth.png"))


if __name__ == "__main__":
    main()
