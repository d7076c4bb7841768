"""The cost of data: preparing text, the second start, and drawing batches.

    python benchmarks/data.py --text FILE [--megabytes 32] [--only preparing|start|loader|share]
    python benchmarks/data.py --text FILE --kills 50
    python benchmarks/data.py --text FILE --memory 1000

Preparing is timed alternately with what it cannot beat, `encode_batch` of Hugging Face tokenizers
on the same text, all in memory, with the same cores. Batches are drawn from the prepared shards at
the sizes of two models, beside the ways of two others: nanoGPT's, slices of a memory-mapped file at
random places, and litgpt's, numbered blocks of a mapped file in the order of a permutation that is
drawn for each epoch; both are written here as those do it. The share is that of drawing a batch in
a step of the same size on a backend; a run draws the next batch in a thread meanwhile, so its share
of the time is smaller. Kills: `hermes prepare` is killed at random moments until it is done, that
often, and the shards are compared byte by byte. Memory: that many MB of text come through a pipe
into `hermes prepare`, whose memory is read from /proc on the way.
"""

import argparse
import hashlib
import json
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

from hermes.data import Cursor, TextDataset, read_documents
from hermes.data.loading import DataOptions, load_tokens
from hermes.data.prepared import PreparationOptions, open_prepared, prepare_tokens
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes.tokenizer import Tokenizer, train_tokenizer

SHARD = 4_000_000
# name: positions of a row, rows of a step
SHAPES = {"tiny": (256, 16), "22m": (512, 32)}
# name: layers, width, heads, width of the feed-forward, vocabulary, rows of a step
MODELS = {"tiny": (4, 128, 4, 352, 8000, 16), "22m": (8, 384, 6, 1024, 16_000, 8)}
KILLED = """
import sys
from hermes.data.prepared import PreparationOptions, prepare_tokens
from hermes.tokenizer import Tokenizer
data, tokenizer, output = sys.argv[1:]
prepare_tokens(data, Tokenizer.load(tokenizer), output,
               options=PreparationOptions(shard_size=400_000))
"""


def write_text(source, path, megabytes):
    """Write documents of the source's paragraphs in another order each, as JSON lines."""
    paragraphs = source.read_text(encoding="utf-8").split("\n\n")
    choose, size = random.Random(0), 0
    with open(path, "w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            text = "\n\n".join(choose.sample(paragraphs, 20))
            size += file.write(json.dumps({"text": text}) + "\n")


def measure_preparing(path, tokenizer, folder, rounds=3):
    """Print the throughput of encode_batch and of a preparation, timed in turn."""
    texts = [document.text for document in read_documents(path)]
    size = sum(len(text.encode()) for text in texts)
    alone, whole = [], []
    plain = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    for number in range(rounds):
        start = time.perf_counter()
        plain.encode_batch_fast(texts, add_special_tokens=False)
        alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        prepare_tokens(
            path, tokenizer, folder / f"p{number}", options=PreparationOptions(shard_size=SHARD)
        )
        whole.append(time.perf_counter() - start)
    a, b = (size / 1e6 / statistics.median(seconds) for seconds in (alone, whole))
    print(f"encode_batch {a:.2f} MB/s, prepare {b:.2f} MB/s: {b / a:.2f} of it")


def measure_second_start(path, tokenizer, folder):
    """Print how long tokens take from the cache, once they are there."""
    options = DataOptions(cache_dir=folder / "cache")
    for name in ("first", "second"):
        start = time.perf_counter()
        stream = load_tokens(path, tokenizer, options)
        print(f"{name} start: {time.perf_counter() - start:.2f} s, {len(stream):,} tokens")


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


def measure_memory(text, tokenizer_file, folder, megabytes):
    """Print the memory of a preparation of that many MB of text, as they come through a pipe."""
    pipe = folder / "text.jsonl"
    os.mkfifo(pipe)
    code = KILLED.replace("shard_size=400_000", "shard_size=100_000_000")
    command = [sys.executable, "-c", code, str(pipe), str(tokenizer_file), str(folder / "out")]
    process = subprocess.Popen(command)
    written = [0]

    def write():
        paragraphs = text.read_text(encoding="utf-8").split("\n\n")
        choose = random.Random(0)
        with open(pipe, "w", encoding="utf-8") as file:
            while written[0] < megabytes * 1_000_000:
                line = json.dumps({"text": "\n\n".join(choose.choices(paragraphs, k=20))})
                written[0] += file.write(line + "\n")

    threading.Thread(target=write, daemon=True).start()
    marks = [megabytes * 1_000_000 * share for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.98)]
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
        assert list_hashes(output) == list_hashes(folder / "whole"), output
    print(f"{done} kills, {finished} preparations finished, each the same bytes")


def main():
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=32)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--memory", type=float, default=0, metavar="MB")
    parser.add_argument("--only", choices=("preparing", "start", "loader", "share"))
    parser.add_argument("--text", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "documents.jsonl"
        tokenizer: Tokenizer = train_tokenizer(
            [given.text.read_text(encoding="utf-8")], vocab_size=8000
        )
        tokenizer.save(folder / "tokenizer.json")
        if given.memory:
            measure_memory(given.text, folder / "tokenizer.json", folder, given.memory)
            return
        write_text(given.text, path, given.megabytes)
        if given.kills:
            measure_kills(path, folder / "tokenizer.json", folder, given.kills)
            return
        if given.only in (None, "preparing"):
            measure_preparing(path, tokenizer, folder)
        if given.only in (None, "start"):
            measure_second_start(path, tokenizer, folder)
        if given.only in ("loader", "share"):
            options = PreparationOptions(shard_size=SHARD)
            prepare_tokens(path, tokenizer, folder / "p0", options=options)
        if given.only in (None, "loader"):
            measure_loader(folder)
        if given.only in (None, "share"):
            measure_share(folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"peak memory {peak / 1024 / 1024:.2f} GiB, with the text of encode_batch in it")


if __name__ == "__main__":
    main()
