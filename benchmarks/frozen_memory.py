"""The memory of LoRA in bfloat16, with its base held in bfloat16 and, as before, in float32.

    python benchmarks/frozen_memory.py [--shape 22m|54m] [--backend torch|mlx]

The base is a file of float32, as hermes writes it. Each learner takes three steps on one row of 64
tokens, and then hands its state to a save, in a process of its own; the growth of its peak resident
set since hermes was loaded, and the framework's own peak if it reports one. A learner keeps the
base in float32 where it is not told that it can read it again.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tuning import read_peak_device, read_peak_resident

from hermes.checkpoint.async_saver import copy_state
from hermes.interface import Batch, LazyTensors, Options, TrainState, find_backend
from hermes.numerics.lora import init_adapters
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import Lora, Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec
from hermes.storage.safetensors import TensorFile, describe_tensors, encode_tensors

SHAPES = {  # layers, width, heads, feed-forward, vocabulary
    "tiny": (2, 64, 4, 176, 500),
    "22m": (8, 384, 6, 1024, 16000),
    "54m": (12, 512, 8, 1376, 32000),
}
RECIPE = Recipe(lora=Lora(rank=8))
WAYS = {"float32": False, "bfloat16": True}


def make_spec(shape):
    """Make a Llama of this shape, its head tied."""
    layers, width, heads, hidden, vocabulary = SHAPES[shape]
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    tied = EmbeddingsSpec(tie_weights=True)
    return ModelSpec((block,), "bench", "", vocabulary, 64, width, layers, embeddings=tied)


def make_state(spec, base, can_reread):
    """Make the state that a run of adapters begins with."""
    fresh = init_adapters(spec, RECIPE.lora, 0, base)
    params = LazyTensors((*base, *fresh), lambda name: fresh[name] if name in fresh else base[name])
    return TrainState(params, {}, {}, 0, can_reread=can_reread)


def measure(backend, shape, path, can_reread):
    """Peaks of this process: after the steps, and with the state for a save in memory."""
    chosen, options = find_backend(backend), Options(device="cpu", precision="bfloat16")

    def take_steps(shape, base, can_reread):
        spec = make_spec(shape)
        learner = chosen.learner(spec, make_state(spec, base, can_reread), RECIPE, options)
        ids = np.random.default_rng(0).integers(0, spec.vocab_size, (1, 1, 65), np.int32)
        batch = Batch(ids[..., :-1], ids[..., 1:], np.zeros((1, 1), np.uint32))
        for _ in range(3):
            float(learner.step(batch, 1e-4).loss)
        return learner

    take_steps("tiny", init_weights(make_spec("tiny"), 0), False)
    before = read_peak_resident()
    learner = take_steps(shape, TensorFile(path), can_reread)
    stepped, device = read_peak_resident() - before, read_peak_device(backend, options)
    state = copy_state(learner.state())
    for _ in encode_tensors(state.params, describe_tensors(state.params)):
        pass
    return stepped, device, read_peak_resident() - before


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="54m")
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    parser.add_argument("--one", nargs=2, metavar=("FILE", "WAY"), help="measure here, in bytes")
    asked = parser.parse_args()
    if asked.one:
        print(*measure(asked.backend[0], asked.shape, Path(asked.one[0]), WAYS[asked.one[1]]))
        return
    spec = make_spec(asked.shape)
    print(f"{asked.shape}: {count_parameters(spec):,} parameters, LoRA of rank 8 in bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "base.safetensors")
        base = init_weights(spec, 0)
        with path.open("wb") as file:
            file.writelines(encode_tensors(base, describe_tensors(base)))
        for backend in asked.backend or ["torch", "mlx"]:
            for way in WAYS:
                told = ["--shape", asked.shape, "--backend", backend, "--one", str(path), way]
                command = [sys.executable, __file__, *told]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                stepped, device, saved = (int(number) / 1e6 for number in said.split())
                counted = f", counted {device:,.0f}" if device else ""
                print(f"  {backend:6} base in {way:8} MB of steps {stepped:,.0f}{counted}, "
                      f"with a save {saved:,.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
