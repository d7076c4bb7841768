"""Saving and loading a checkpoint beside a plain copy of the same bytes, on one disk in one run.

    python benchmarks/checkpoint.py [--model gpt2-small] [--rounds 3] [--folder DIR]

The state is a model's weights and both moments in float32. copy: its files written again, each
synced, and their folder. read: its files read once. Before each of these the page cache lets go of
what is read. save: hashed, written, synced and named. load: every byte verified, every tensor made.
blocked: how long training waits for a save in the background, beside the copy of the state alone.
Figures travel between machines only as ratios.
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


def timed(act, *arguments, **options):
    """Seconds that it takes, and what it gives."""
    began = time.perf_counter()
    made = act(*arguments, **options)
    return time.perf_counter() - began, made


def forget(folder):
    """Let the page cache go of a folder's files, which are synced."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def copy(source, target):
    """A folder's files again, on disk."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        with open(path, "rb") as read, open(target / path.name, "wb") as written:
            shutil.copyfileobj(read, written, BLOCK)
            written.flush()
            os.fsync(written.fileno())
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def read(source):
    """A folder's files, once, into one buffer."""
    buffer = memoryview(bytearray(BLOCK))
    for path in sorted(source.iterdir()):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def load(path):
    """Every tensor of a checkpoint, verified."""
    state = open_checkpoint(path).state
    parts = (state.params, state.exp_avg, state.exp_avg_sq)
    return [{name: part[name] for name in part} for part in parts]


def random_state(spec, step):
    """Weights and moments that no compression of the disk can shorten."""
    random = np.random.default_rng(0)
    made = [
        {n: random.standard_normal(t.shape, np.float32) for n, t in list_parameters(spec).items()}
        for _ in range(3)
    ]
    return TrainState(*made, step)


def disk_rounds(spec, state, folder, rounds):
    """Seconds of each act in each round, and the bytes of a checkpoint."""
    seconds = {"copy": [], "read": [], "save": [], "load": []}
    run, again, size = folder / "run", folder / "copy", 0
    progress = Progress("bench", state.step, Recipe())
    for turn in range(rounds + 1):
        saving, path = timed(save, run, state, spec=spec, progress=progress, workers=2)
        size = sum(file.stat().st_size for file in path.iterdir())
        forget(path)
        copying, _ = timed(copy, path, again)
        shutil.rmtree(again)
        forget(path)
        reading, _ = timed(read, path)
        forget(path)
        loading, _ = timed(load, path)
        shutil.rmtree(run)
        os.sync()
        if turn:  # the first warms up
            for name, one in zip(seconds, (copying, reading, saving, loading), strict=True):
                seconds[name].append(one)
    return seconds, size


def blocked(spec, state, folder, backend, rounds):
    """Seconds of the copy of a learner's state alone, and for which a save holds training up."""
    learner = find_backend(backend).learner(spec, state, Recipe())
    progress = Progress("bench", state.step, Recipe())
    run, alone, held = folder / "blocked", [], []
    for turn in range(rounds + 1):
        copying = timed(copy_state, learner.state())[0]
        with Saver(run, spec=spec) as saver:
            holding = timed(saver.save, learner.state(), progress)[0]
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
    state = random_state(spec, 1)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        seconds, size = disk_rounds(spec, state, folder, chosen.rounds)
        print(f"{chosen.model}: {size / 1e9:.2f} GB, {os.cpu_count()} processors")
        rate = {act: size / 1e9 / statistics.median(taken) for act, taken in seconds.items()}
        for act, one in rate.items():
            spread = f"{min(seconds[act]):.2f} to {max(seconds[act]):.2f} s"
            line = f"  {act:5} {one:6.2f} GB/s  {one / rate['copy']:5.2f} x copy"
            print(f"{line}  {one / rate['read']:5.2f} x read   ({spread})")
        for backend in chosen.backend or ("torch", "mlx"):
            alone, held = blocked(spec, state, folder, backend, chosen.rounds)
            ratio = held / alone
            print(
                f"  {backend:5} blocked {held:.3f} s, the copy alone {alone:.3f} s, {ratio:.2f} x"
            )


if __name__ == "__main__":
    main()
