"""The cost of preference training, compared with supervised finetuning on the same tokens.

    python benchmarks/tuning.py [--shape tiny|22m] [--precision float32] [--backend torch|mlx]

DPO trains on a batch of pairs, SFT on the same rows as conversations. Steps are timed alternately
in one process, and medians are printed. Memory is measured in a process for each: the growth of its
peak resident set since hermes was loaded, and the framework's own peak if it reports one. DPO's
process computes the reference log-probabilities first, as a run does.
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

# layers, width, heads, feed-forward, vocabulary, positions of a row, pairs
SHAPES = {
    "tiny": (4, 128, 4, 352, 8000, 256, 16),
    "22m": (8, 384, 6, 1024, 16000, 512, 4),
}
RULE = Preference(beta=0.1)
RECIPES = {"sft": Recipe(), "dpo": Recipe(objective="preference", preference=RULE)}


def make_spec(shape):
    """Make a Llama of this shape."""
    layers, width, heads, hidden, vocabulary, context, _ = shape
    block = BlockSpec(AttentionSpec(heads), FfnSpec(hidden_dim=hidden))
    return ModelSpec((block,), "bench", "", vocabulary, context, width, layers)


def make_rows(shape):
    """Make tokens and targets of the pairs; half of a row is the prompt. (1, 2 P, T) each."""
    *_, vocabulary, context, pairs = shape
    ids = np.random.default_rng(0).integers(0, vocabulary, (1, 2 * pairs, context + 1), np.int32)
    targets = ids[..., 1:].copy()
    targets[..., : context // 2] = IGNORE
    return ids[..., :-1], targets


def make_batches(shape, reference):
    """Make batches of the same rows, as conversations and as pairs."""
    tokens, targets = make_rows(shape)
    keys = np.arange(tokens.shape[1], dtype=np.uint32)[None]
    pairs = PreferencePairs(reference[None], RULE)
    return {
        "sft": Batch(tokens, targets, keys),
        "dpo": Batch(tokens, targets, keys, pairs=pairs),
    }


def make_learner(backend, spec, objective, options):
    """Make a learner with initial weights."""
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    return find_backend(backend).learner(spec, state, RECIPES[objective], options)


def time_steps(backend, shape, options, rounds):
    """Time steps of each objective; the median seconds."""
    spec = make_spec(shape)
    batches = make_batches(shape, np.zeros(2 * shape[-1]))
    learners = {name: make_learner(backend, spec, name, options) for name in batches}
    seconds = {name: [] for name in batches}
    for turn in range(rounds + 1):
        for name, learner in learners.items():
            start = time.perf_counter()
            report = learner.step(batches[name], 1e-5)
            float(report.loss), float(report.grad_norm)
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def read_peak_resident():
    """Read the peak resident bytes of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def read_peak_device(backend, options):
    """Read the framework's own peak in bytes; 0 if it reports none."""
    if backend == "mlx":
        import mlx.core as mx

        return mx.get_peak_memory()
    import torch

    return torch.cuda.max_memory_allocated() if "cuda" in str(options.device) else 0


def measure_peaks(backend, shape, objective, options):
    """Take three steps in this process; the growth of its peak, and the framework's own peak."""
    spec = make_spec(shape)
    tokens, targets = make_rows(shape)
    chosen = find_backend(backend)
    chosen.build(make_spec(SHAPES["tiny"]), init_weights(make_spec(SHAPES["tiny"]), 0), options)
    before, reference = read_peak_resident(), np.zeros(2 * shape[-1])
    if objective == "dpo":
        model = chosen.build(spec, init_weights(spec, 0), options)
        reference = np.asarray(model.row_logprobs(tokens[0], targets[0]), np.float64)
        del model
    learner = make_learner(backend, spec, objective, options)
    batch = make_batches(shape, reference)[objective]
    for _ in range(3):
        float(learner.step(batch, 1e-5).loss)
    return read_peak_resident() - before, read_peak_device(backend, options)


def run_measure_peaks(backend, objective, command):
    """Run `measure_peaks` in a new process."""
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
        print(*measure_peaks(asked.backend[0], shape, asked.peak_of, options))
        return
    *_, context, pairs = shape
    print(
        f"{asked.shape}: {count_parameters(make_spec(shape)):,} parameters, {pairs} pairs of "
        f"2 x {context} tokens a step, {asked.precision}"
    )
    told = ["--shape", asked.shape, "--precision", asked.precision]
    told += ["--device", asked.device] if asked.device else []
    backends = asked.backend or ["torch", "mlx"]
    for backend in backends:  # before timing: a new process inherits the peak of its parent
        found = {name: run_measure_peaks(backend, name, told) for name in RECIPES}
        for number, what in enumerate(("resident", "counted")):
            held = {name: both[number] for name, both in found.items()}
            if all(held.values()):
                print(f"  {backend:6} {what} MB: {_format_ratio(held, ',.0f', 1e-6)}", flush=True)
    for backend in backends:
        taken = time_steps(backend, shape, options, asked.rounds)
        print(f"  {backend:6} seconds: {_format_ratio(taken, '.3f', 1)}", flush=True)


def _format_ratio(found, form, scale):
    words = ", ".join(f"{name} {scale * value:{form}}" for name, value in found.items())
    return f"{words}, ratio {found['dpo'] / found['sft']:.3f}"


if __name__ == "__main__":
    main()
