"""The cost of data: preparing text, the second start, and drawing batches.

    python benchmarks/data.py [--megabytes 32] [--kills 50] [--text FILE]

Preparing is timed alternately with what it cannot beat, `encode_batch` of Hugging Face tokenizers
on the same text, all in memory, with the same cores. Batches are drawn from the prepared shards at
the sizes of two models, beside nanoGPT's own way: slices of a memory-mapped file at random places,
one copy each. Kills: `hermes prepare` is killed at random moments until it is done, that often, and
the shards are compared byte by byte.
"""

import argparse
import hashlib
import json
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hermes.data import Cursor, TextDataset, read_documents
from hermes.data.loading import DataOptions, load_tokens
from hermes.data.prepared import PreparationOptions, open_prepared, prepare_tokens
from hermes.tokenizer import Tokenizer, train_tokenizer

SHARD = 4_000_000
# name: positions of a row, rows of a step
SHAPES = {"tiny": (256, 16), "22m": (512, 32)}
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
    for number in range(rounds):
        start = time.perf_counter()
        tokenizer._inner.encode_batch_fast(texts, add_special_tokens=False)
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


def measure_loader(folder):
    """Print the time of a step's batch, beside nanoGPT's way of making one."""
    stream = open_prepared(folder / "p0")
    one = folder / "train.bin"
    one.write_bytes(np.asarray(stream.tokens[:]).tobytes())
    for name, (length, rows) in SHAPES.items():
        data = TextDataset(stream, seq_len=length, vocab_size=1 << 16)
        cursor, own, other = Cursor(), [], []
        generator = np.random.default_rng(0)
        for _ in range(200):
            start = time.perf_counter()
            _, cursor = data.draw_batch(cursor, samples=rows, micro_batch=rows, accum=1)
            own.append(time.perf_counter() - start)
            start = time.perf_counter()
            tokens = np.memmap(one, "<u2", "r")
            places = generator.integers(0, len(tokens) - length, rows)
            for shift in (0, 1):
                np.stack([tokens[i + shift : i + shift + length].astype(np.int64) for i in places])
            other.append(time.perf_counter() - start)
        a, b = (1e3 * statistics.median(seconds) for seconds in (own, other))
        print(f"{name}: a batch of {rows} x {length} takes {a:.2f} ms; nanoGPT's way {b:.2f} ms")


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
    parser.add_argument("--text", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "text.jsonl"
        write_text(given.text, path, given.megabytes)
        tokenizer: Tokenizer = train_tokenizer(
            [given.text.read_text(encoding="utf-8")], vocab_size=8000
        )
        tokenizer.save(folder / "tokenizer.json")
        if given.kills:
            measure_kills(path, folder / "tokenizer.json", folder, given.kills)
            return
        measure_preparing(path, tokenizer, folder)
        measure_second_start(path, tokenizer, folder)
        measure_loader(folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"peak memory {peak / 1024 / 1024:.2f} GiB, with the text of encode_batch in it")


if __name__ == "__main__":
    main()
