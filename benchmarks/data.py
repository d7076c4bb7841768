"""The cost of data: preparing text, the second start, and drawing batches.

    python benchmarks/data.py                          prepare, second-start, loader and share
    python benchmarks/data.py --part prepare [--bytes 32e6]
    python benchmarks/data.py --part second-start --bytes 1e9
    python benchmarks/data.py --part memory --bytes 10e9
    python benchmarks/data.py --part kills [--kills 50]

It makes its text itself, in a temporary folder that it deletes; --text FILE takes the paragraphs of
a file instead. The parts:

prepare: timed alternately with what it cannot beat, `encode_batch` of Hugging Face tokenizers on
the same text, all in memory, with the same cores. second-start: `hermes train` from its start to
its first update, on text that is not in the cache and then on the same text again. loader: batches
are drawn from the prepared shards at the sizes of two models, beside the ways of two others:
nanoGPT's, slices of a memory-mapped file at random places, and litgpt's, numbered blocks of a
mapped file in the order of a permutation that is drawn for each epoch; both are written here as
those do it. share: that of drawing a batch in a step of the same size on a backend; a run draws the
next batch in a thread meanwhile, so its share of the time is smaller. kills: a preparation is
killed at random moments until it is done, that often, and the shards are compared byte by byte.
memory: that many bytes of text come through a pipe into a preparation, whose memory is read from
/proc on the way.
"""

import argparse
import hashlib
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tokenizers
from synthetic_text import make_paragraphs, write_documents

from hermes.data import Cursor, TextDataset, read_documents
from hermes.data.prepared import PreparationOptions, open_prepared, prepare_tokens
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes.tokenizer import Tokenizer, train_tokenizer

PARTS = ("prepare", "second-start", "loader", "share", "kills", "memory")
SHARD = 4_000_000
# name: positions of a row, rows of a step
SHAPES = {"tiny": (256, 16), "22m": (512, 32)}
# name: layers, width, heads, width of the feed-forward, vocabulary, rows of a step
MODELS = {"tiny": (4, 128, 4, 352, 8000, 16), "22m": (8, 384, 6, 1024, 16_000, 8)}
STARTED = """model started { max_seq_len: 256 hidden_size: 64 num_layers: 2
  block: { attention: { num_heads: 2 } ffn: { hidden_dim: 128 } } }"""
KILLED = """
import sys
from hermes.data.prepared import PreparationOptions, prepare_tokens
from hermes.tokenizer import Tokenizer
data, tokenizer, output = sys.argv[1:]
prepare_tokens(data, Tokenizer.load(tokenizer), output,
               options=PreparationOptions(shard_size=400_000))
"""


def measure_preparing(path, tokenizer, folder, rounds=5):
    """Print the throughput of encode_batch and of a preparation, timed in turn.

    The share is the median over the rounds: the speed of a machine may change from one to the next.
    """
    texts = [document.text for document in read_documents(path)]
    size = sum(len(text.encode()) for text in texts)
    plain = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    options = PreparationOptions(shard_size=SHARD)
    ways = (
        lambda number: bool(plain.encode_batch_fast(texts, add_special_tokens=False)),
        lambda number: prepare_tokens(path, tokenizer, folder / f"p{number}", options=options),
    )
    # Of each round the seconds of both ways, and those of processors.
    walls, processors = [], []
    for number in range(rounds):
        spent = []
        for way in ways:
            wall, processor = time.perf_counter(), time.process_time()
            way(number)
            spent.append((time.perf_counter() - wall, time.process_time() - processor))
        alone, whole = spent
        walls.append((alone[0], whole[0]))
        processors.append((alone[1], whole[1]))
    a, b = (size / 1e6 / statistics.median(seconds) for seconds in zip(*walls, strict=True))
    by_wall, by_processor = (
        statistics.median(one / other for one, other in spent) for spent in (walls, processors)
    )
    print(
        f"encode_batch {a:.2f} MB/s, prepare {b:.2f} MB/s: {by_wall:.2f} of it, by processor time "
        f"{by_processor:.2f}"
    )


def measure_second_start(path, tokenizer_file, folder):
    """Print how long a run takes from its start to its first update, twice on the same text."""
    (folder / "model.mal").write_text(STARTED)
    for name in ("first", "second"):
        run = folder / f"run-{name}"
        command = [sys.executable, "-m", "hermes", "train", "--model", str(folder / "model.mal"),
                   "--data", str(path), "--tokenizer", str(tokenizer_file), "--output", str(run),
                   "--cache-dir", str(folder / "cache"), "--max-steps", "1", "--log-every", "1",
                   "--seq-len", "256", "--batch-size", "4", "--backend", "torch",
                   "--device", "cpu"]  # fmt: skip
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        metrics, first = run / "metrics.jsonl", None
        while process.poll() is None:
            if first is None and metrics.exists() and metrics.stat().st_size:
                first = time.perf_counter() - start
            time.sleep(0.02)
        if process.returncode:
            raise SystemExit(process.stderr.read())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.perf_counter() - start if first is None else first
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"{name} start on {path.stat().st_size / 1e6:,.0f} MB: first update after "
            f"{seconds:.1f} s; {busy:.1f} s of processor time to the end",
            flush=True,
        )


def draw_as_nanogpt(path, length, rows, generator):
    """A batch by nanoGPT's get_batch: the file is mapped for each, its slices are copied twice."""
    tokens = np.memmap(path, "<u2", "r")
    places = generator.integers(0, len(tokens) - length, rows)
    for shift in (0, 1):
        np.stack([tokens[i + shift : i + shift + length].astype(np.int64) for i in places])


class BlocksAsLitgpt:
    """Batches by litgpt's packed and streamed datasets: blocks in an order drawn for each epoch."""

    def __init__(self, path, length):
        self._buffer = memoryview(np.memmap(path, "<u2", "r"))
        self._width = length + 1
        self._blocks = len(self._buffer) // self._width
        self._generator, self._order, self._at = np.random.default_rng(0), [], 0

    def draw(self, rows):
        """A batch of `rows` blocks, each a copy of its own that is then stacked."""
        found = []
        for _ in range(rows):
            if self._at == len(self._order):
                self._order, self._at = self._generator.permutation(self._blocks), 0
            at = 2 * self._width * int(self._order[self._at])
            block = np.frombuffer(self._buffer, np.uint16, count=self._width, offset=at)
            found.append(block.astype(np.int64))
            self._at += 1
        stacked = np.stack(found)
        return stacked[:, :-1].copy(), stacked[:, 1:].copy()


def write_ids(stream, path):
    """Write the tokens of a stream as one file of ids, as both others have them."""
    path.write_bytes(np.asarray(stream.tokens[:]).tobytes())
    return path


def measure_loader(folder):
    """Print the time of a step's batch, beside nanoGPT's and litgpt's ways of making one."""
    stream = open_prepared(folder / "p0")
    one = write_ids(stream, folder / "train.bin")
    for name, (length, rows) in SHAPES.items():
        data = TextDataset(stream, seq_len=length, vocab_size=1 << 16)
        blocks, generator = BlocksAsLitgpt(one, length), np.random.default_rng(0)
        cursor, seconds = Cursor(), ([], [], [])
        for _ in range(400):
            start = time.perf_counter()
            _, cursor = data.draw_batch(cursor, samples=rows, micro_batch=rows, accum=1)
            seconds[0].append(time.perf_counter() - start)
            start = time.perf_counter()
            draw_as_nanogpt(one, length, rows, generator)
            seconds[1].append(time.perf_counter() - start)
            start = time.perf_counter()
            blocks.draw(rows)
            seconds[2].append(time.perf_counter() - start)
        own, nano, lit = (1e3 * statistics.median(one) for one in seconds)
        print(
            f"{name}: a batch of {rows} x {length} takes {own:.3f} ms; nanoGPT's way {nano:.3f} "
            f"ms, litgpt's {lit:.3f} ms"
        )


def measure_share(folder, steps=2):
    """Print what share of a step drawing its batch is, on both backends, in processor time."""
    stream = open_prepared(folder / "p0")
    for name, (length, _) in SHAPES.items():
        layers, width, heads, hidden, vocabulary, rows = MODELS[name]
        block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
        spec = ModelSpec((block,), f"bench-{name}", "", vocabulary, length, width, layers)
        data = TextDataset(stream, seq_len=length, vocab_size=spec.vocab_size)
        for backend in ("torch", "mlx"):
            state = TrainState(init_weights(spec, 0), {}, {}, 0)
            learner = find_backend(backend).learner(spec, state, Recipe(), Options(compile=False))
            cursor, drawing, computing = Cursor(), [], []
            for _ in range(steps + 1):
                start = time.process_time()
                batch, cursor = data.draw_batch(cursor, samples=rows, micro_batch=rows, accum=1)
                middle = time.process_time()
                float(learner.step(batch, 1e-4).loss)
                drawing.append(middle - start)
                computing.append(time.process_time() - middle)
            drawn, computed = (statistics.median(one[1:]) for one in (drawing, computing))
            print(
                f"{name}, {count_parameters(spec):,} parameters, {backend}: {1e3 * drawn:.2f} ms "
                f"of a step of {computed:.2f} s of processor time, {drawn / (drawn + computed):.4%}"
            )


def measure_memory(paragraphs, tokenizer_file, folder, size):
    """Print the memory of a preparation of that many bytes of text, as they come through a pipe."""
    pipe = folder / "text.jsonl"
    os.mkfifo(pipe)
    code = KILLED.replace("shard_size=400_000", "shard_size=100_000_000")
    command = [sys.executable, "-c", code, str(pipe), str(tokenizer_file), str(folder / "out")]
    process = subprocess.Popen(command)
    written = [0]

    def write():
        with open(pipe, "w", encoding="utf-8") as file:
            write_documents(paragraphs, file, size, lambda count: written.__setitem__(0, count))

    threading.Thread(target=write, daemon=True).start()
    marks = [size * share for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.98)]
    while process.poll() is None:
        if marks and written[0] >= marks[0]:
            marks.pop(0)
            print(f"{written[0] / 1e6:,.0f} MB read: {describe_memory(process.pid)}", flush=True)
        time.sleep(0.2)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{written[0] / 1e6:,.0f} MB prepared, exit code {process.returncode}: peak {peak:.0f} MiB"
    )


def describe_memory(pid):
    """What a process holds now, and has held at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    now, peak = (int(facts[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return f"{now:.0f} MiB, at most {peak:.0f} MiB"


def list_hashes(folder):
    """The hash of every file of a preparation but the one that says when it was made."""
    names = [path for path in folder.iterdir() if path.name != "provenance.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def measure_kills(path, tokenizer_file, folder, kills):
    """Kill preparations at random moments, and compare what they come to."""
    command = [sys.executable, "-c", KILLED, str(path), str(tokenizer_file)]
    start = time.perf_counter()
    subprocess.run([*command, str(folder / "whole")], check=True)
    seconds = time.perf_counter() - start
    choose, done, finished = random.Random(1), 0, 0
    while done < kills:
        output = folder / f"killed-{finished}"
        while True:
            process = subprocess.Popen([*command, str(output)])
            try:
                process.wait(choose.uniform(0.2, 1.0) * seconds)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
        finished += 1
        found, wanted = list_hashes(output), list_hashes(folder / "whole")
        other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if process.returncode or other:
            raise SystemExit(f"{output}: exit code {process.returncode}, other bytes: {other}")
    print(f"{done} kills, {finished} preparations finished, each the same bytes")


def main():
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, help="None for all but kills and memory.")
    parser.add_argument("--bytes", type=float, default=32e6, help="Of text, as in 1e9.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--text", type=Path, help="A file of paragraphs, for other text.")
    given = parser.parse_args()
    parts = [given.part] if given.part else PARTS[:4]
    with tempfile.TemporaryDirectory(prefix="hermes-benchmark-") as name:
        folder = Path(name)
        path, tokenizer_file = folder / "documents.jsonl", folder / "tokenizer.json"
        if given.text is None:
            paragraphs = make_paragraphs()
        else:
            paragraphs = given.text.read_text(encoding="utf-8").split("\n\n")
        tokenizer: Tokenizer = train_tokenizer(["\n\n".join(paragraphs)], vocab_size=8000)
        tokenizer.save(tokenizer_file)
        if given.part == "memory":
            measure_memory(paragraphs, tokenizer_file, folder, given.bytes)
            return
        with open(path, "w", encoding="utf-8") as file:
            write_documents(paragraphs, file, given.bytes)
        if "kills" in parts:
            measure_kills(path, tokenizer_file, folder, given.kills)
        if "prepare" in parts:
            measure_preparing(path, tokenizer, folder)
        if "second-start" in parts:
            measure_second_start(path, tokenizer_file, folder)
        if {"loader", "share"} & {*parts} and not (folder / "p0").exists():
            options = PreparationOptions(shard_size=SHARD)
            prepare_tokens(path, tokenizer, folder / "p0", options=options)
        if "loader" in parts:
            measure_loader(folder)
        if "share" in parts:
            measure_share(folder)


if __name__ == "__main__":
    main()
