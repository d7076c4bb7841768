"""What preferences cost beside ordinary tuning: time and memory of an update on the same tokens.

    python benchmarks/tuning.py [--shape tiny|22m] [--precision float32] [--backend torch|mlx]

A batch of pairs is trained on by DPO, and its rows as if each were a conversation. For time both
take turns in one process, and medians are printed; the memory of each is that of a process of its
own: the peak of its resident set from when hermes is loaded, and the peak that the framework
counts, where it does. DPO's process computes the reference first, as a run does.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

from hermes.interface import IGNORE, Batch, Options, PreferencePairs, TrainState, find_backend
from hermes.numerics.params import count_parameters, init_weights
from hermes.recipe import Preference, Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

# layers, width, heads, feed-forward, vocabulary, places of a row, pairs
SHAPES = {
    "tiny": (4, 128, 4, 352, 8000, 256, 16),
    "22m": (8, 384, 6, 1024, 16000, 512, 4),
}
RULE = Preference(beta=0.1)
RECIPES = {"sft": Recipe(), "dpo": Recipe(objective="preference", preference=RULE)}


def spec_of(shape):
    """A Llama of this shape."""
    layers, width, heads, hidden, vocabulary, context, _ = shape
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    return ModelSpec((block,), "bench", "", vocabulary, context, width, layers)


def rows_of(shape):
    """Tokens and targets of the pairs: the first half of a row is a prompt. (1, 2 P, T) each."""
    *_, vocabulary, context, pairs = shape
    ids = np.random.default_rng(0).integers(0, vocabulary, (1, 2 * pairs, context + 1), np.int32)
    targets = ids[..., 1:].copy()
    targets[..., : context // 2] = IGNORE
    return ids[..., :-1], targets


def batches_of(shape, reference):
    """The same rows as conversations and as pairs."""
    tokens, targets = rows_of(shape)
    keys = np.arange(tokens.shape[1], dtype=np.uint32)[None]
    pairs = PreferencePairs(reference[None], RULE)
    return {
        "sft": Batch(tokens, targets, keys),
        "dpo": Batch(tokens, targets, keys, pairs=pairs),
    }


def learner_of(backend, spec, objective, options):
    """A learner of fresh weights."""
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    return find_backend(backend).learner(spec, state, RECIPES[objective], options)


def times(backend, shape, options, rounds):
    """The median seconds of an update of each objective."""
    spec = spec_of(shape)
    batches = batches_of(shape, np.zeros(2 * shape[-1]))
    learners = {name: learner_of(backend, spec, name, options) for name in batches}
    seconds = {name: [] for name in batches}
    for turn in range(rounds + 1):
        for name, learner in learners.items():
            start = time.perf_counter()
            report = learner.step(batches[name], 1e-5)
            float(report.loss), float(report.grad_norm)
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def resident():
    """The peak of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def counted(backend, options):
    """The framework's own count of its peak, in bytes; 0 where it has none."""
    if backend == "mlx":
        import mlx.core as mx

        return mx.get_peak_memory()
    import torch

    return torch.cuda.max_memory_allocated() if "cuda" in str(options.device) else 0


def peaks(backend, shape, objective, options):
    """Train three updates in this process; the growth of its peak and the framework's count."""
    spec = spec_of(shape)
    tokens, targets = rows_of(shape)
    chosen = find_backend(backend)
    chosen.build(spec_of(SHAPES["tiny"]), init_weights(spec_of(SHAPES["tiny"]), 0), options)
    before, reference = resident(), np.zeros(2 * shape[-1])
    if objective == "dpo":
        model = chosen.build(spec, init_weights(spec, 0), options)
        reference = np.asarray(model.row_logprobs(tokens[0], targets[0]), np.float64)
        del model
    learner = learner_of(backend, spec, objective, options)
    batch = batches_of(shape, reference)[objective]
    for _ in range(3):
        float(learner.step(batch, 1e-5).loss)
    return resident() - before, counted(backend, options)


def peaks_of(backend, objective, command):
    """The same from a process of its own."""
    told = [sys.executable, __file__, *command, "--backend", backend, "--peak-of", objective]
    held = subprocess.run(told, check=True, capture_output=True, text=True).stdout
    return tuple(map(int, held.split()))


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--backend", action="append", choices=("torch", "mlx"))
    parser.add_argument("--device", default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--peak-of",
        choices=RECIPES,
        help="Print the two peaks of one objective, in bytes, and nothing else.",
    )
    asked = parser.parse_args()
    shape = SHAPES[asked.shape]
    options = Options(device=asked.device, precision=asked.precision)
    if asked.peak_of:
        print(*peaks(asked.backend[0], shape, asked.peak_of, options))
        return
    *_, context, pairs = shape
    print(
        f"{asked.shape}: {count_parameters(spec_of(shape)):,} parameters, {pairs} pairs of "
        f"2 x {context} tokens an update, {asked.precision}"
    )
    told = ["--shape", asked.shape, "--precision", asked.precision]
    told += ["--device", asked.device] if asked.device else []
    backends = asked.backend or ["torch", "mlx"]
    for backend in backends:  # first, as a process begins with the peak of the one that began it
        found = {name: peaks_of(backend, name, told) for name in RECIPES}
        for number, what in enumerate(("resident", "counted")):
            held = {name: both[number] for name, both in found.items()}
            if all(held.values()):
                print(f"  {backend:6} {what} MB: {_beside(held, ',.0f', 1e-6)}", flush=True)
    for backend in backends:
        taken = times(backend, shape, options, asked.rounds)
        print(f"  {backend:6} seconds: {_beside(taken, '.3f', 1)}", flush=True)


def _beside(found, form, scale):
    words = ", ".join(f"{name} {scale * value:{form}}" for name, value in found.items())
    return f"{words}, ratio {found['dpo'] / found['sft']:.3f}"


if __name__ == "__main__":
    main()
