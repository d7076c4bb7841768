"""Saving and loading a checkpoint, compared with copying the same bytes on the same disk.

    python benchmarks/checkpoint.py [--model gpt2-small] [--rounds 3] [--folder DIR]

The state is a model's weights and both moments in float32. copy: writes the files again and syncs
each, and their folder. read: reads the files once. save: hashes, writes, syncs and renames. load:
verifies every byte and makes every tensor. Files are dropped from the page cache before they are
read. blocked: how long training waits for a save in the background, compared with copying the
state. Only ratios can be compared between machines.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from hermes import load_spec
from hermes.checkpoint import Progress, Saver, copy_state, open_checkpoint, save
from hermes.interface import TrainState, find_backend
from hermes.numerics.params import list_parameters
from hermes.recipe import Recipe

BLOCK = 8 * 2**20


def time_call(act, *arguments, **options):
    """Call a function; the seconds it took, and its result."""
    began = time.perf_counter()
    made = act(*arguments, **options)
    return time.perf_counter() - began, made


def drop_from_cache(folder):
    """Drop a folder's synced files from the page cache."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def copy_folder(source, target):
    """Copy a folder's files and sync them."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        with open(path, "rb") as read, open(target / path.name, "wb") as written:
            shutil.copyfileobj(read, written, BLOCK)
            written.flush()
            os.fsync(written.fileno())
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def read_folder(source):
    """Read a folder's files once, into one buffer."""
    buffer = memoryview(bytearray(BLOCK))
    for path in sorted(source.iterdir()):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def load_checkpoint(path):
    """Load and verify every tensor of a checkpoint."""
    state = open_checkpoint(path).state
    parts = (state.params, state.exp_avg, state.exp_avg_sq)
    return [{name: part[name] for name in part} for part in parts]


def make_state(spec, step):
    """Make weights and moments of random numbers, which a compressing disk cannot shrink."""
    random = np.random.default_rng(0)
    made = [
        {n: random.standard_normal(t.shape, np.float32) for n, t in list_parameters(spec).items()}
        for _ in range(3)
    ]
    return TrainState(*made, step)


def measure_disk(spec, state, folder, rounds):
    """Measure the seconds of each operation in each round, and the bytes of a checkpoint."""
    seconds = {"copy": [], "read": [], "save": [], "load": []}
    run, again, size = folder / "run", folder / "copy", 0
    progress = Progress("bench", state.step, Recipe())
    for turn in range(rounds + 1):
        saving, path = time_call(save, run, state, spec=spec, progress=progress, workers=2)
        size = sum(file.stat().st_size for file in path.iterdir())
        drop_from_cache(path)
        copying, _ = time_call(copy_folder, path, again)
        shutil.rmtree(again)
        drop_from_cache(path)
        reading, _ = time_call(read_folder, path)
        drop_from_cache(path)
        loading, _ = time_call(load_checkpoint, path)
        shutil.rmtree(run)
        os.sync()
        if turn:  # the first warms up
            for name, one in zip(seconds, (copying, reading, saving, loading), strict=True):
                seconds[name].append(one)
    return seconds, size


def measure_blocking(spec, state, folder, backend, rounds):
    """Measure the seconds of copying a learner's state, and for which a save blocks training."""
    learner = find_backend(backend).learner(spec, state, Recipe())
    progress = Progress("bench", state.step, Recipe())
    run, alone, held = folder / "blocked", [], []
    for turn in range(rounds + 1):
        copying = time_call(copy_state, learner.state())[0]
        with Saver(run, spec=spec) as saver:
            holding = time_call(saver.save, learner.state(), progress)[0]
        shutil.rmtree(run)
        if turn:
            alone.append(copying)
            held.append(holding)
    return statistics.median(alone), statistics.median(held)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2-small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=".", help="where to write; on the disk in question")
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    chosen = parser.parse_args()
    spec = load_spec(chosen.model)
    state = make_state(spec, 1)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        seconds, size = measure_disk(spec, state, folder, chosen.rounds)
        print(f"{chosen.model}: {size / 1e9:.2f} GB, {os.cpu_count()} processors")
        rate = {act: size / 1e9 / statistics.median(taken) for act, taken in seconds.items()}
        for act, one in rate.items():
            spread = f"{min(seconds[act]):.2f} to {max(seconds[act]):.2f} s"
            line = f"  {act:5} {one:6.2f} GB/s  {one / rate['copy']:5.2f} x copy"
            print(f"{line}  {one / rate['read']:5.2f} x read   ({spread})")
        for backend in chosen.backend or ("torch", "mlx"):
            alone, held = measure_blocking(spec, state, folder, backend, chosen.rounds)
            ratio = held / alone
            print(
                f"  {backend:5} blocked {held:.3f} s, the copy alone {alone:.3f} s, {ratio:.2f} x"
            )


if __name__ == "__main__":
    main()
