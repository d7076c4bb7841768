"""Peak memory of real training steps, each in a process of its own, beside what a plan says.

    python benchmarks/plan.py [BACKEND | PRECISION]...

torch: growth of the process's resident memory from before the learner is built to its peak, as
Linux counts it (VmHWM), where glibc gives back at once what is freed (MALLOC_MMAP_THRESHOLD_), and
beside it as glibc does by default, which holds what was freed for the next array of any size. MLX:
mx.get_peak_memory. Both on the CPU, three steps.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from hermes import mal
from hermes.formatting import format_columns
from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.model_info.training_memory import Placement, plan_memory
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe

# model, edits, batch size, gradient accumulation, tokens of a row
SHAPES = (
    ("nano", {}, 32, 1, 128),
    ("tiny", {}, 8, 1, 256),
    ("tiny", {}, 8, 2, 256),
    ("llama-small", {"num_layers": "3", "hidden_size": "512", "vocab_size": "8000"}, 2, 1, 512),
    ("gpt2-small", {"num_layers": "4", "vocab_size": "8000"}, 2, 1, 256),
    ("smol-llama", {"num_layers": "3", "vocab_size": "8000"}, 2, 1, 256),
)
BACKENDS = ("torch", "mlx")
VARIANTS = (("float32", False), ("float32", True), ("bfloat16", False))

PRECISIONS = {precision for precision, _ in VARIANTS}


def read_status(key):
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise LookupError(key)


def measure(backend, name, edits, B, A, T, precision, grad_checkpoint):
    """Bytes at the peak of three steps in this process."""
    spec = mal.load(name)
    spec = mal.edit_all(spec, edits) if edits else spec
    weights = init_weights(spec, 0)
    recipe = Recipe(batch_size=B, grad_accum=A, seq_len=T)
    options = Options(device="cpu", precision=precision, grad_checkpoint=grad_checkpoint)
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (A, B, T + 1)).astype(np.int32)
    rows = np.arange(A * B, dtype=np.uint32).reshape(A, B)
    batch = Batch(ids[..., :-1], ids[..., 1:].copy(), rows)
    warm_up(backend, options)
    gc.collect()
    before = read_status("VmRSS")
    learner = find_backend(backend).learner(spec, TrainState(weights, {}, {}, 0), recipe, options)
    for _ in range(3):
        float(learner.step(batch, 1e-4).grad_norm)
    if backend == "torch":
        return read_status("VmHWM") - before
    import mlx.core as mx

    return mx.get_peak_memory()


def warm_up(backend, options):
    """Load the libraries and start their threads, whose memory is no run's."""
    spec = mal.edit_all(mal.load("nano"), {"vocab_size": "64", "num_layers": "1"})
    ids = np.zeros((1, 1, 16), np.int32)
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    learner = find_backend(backend).learner(spec, state, Recipe(), options)
    float(learner.step(Batch(ids, ids, np.zeros((1, 1), np.uint32)), 1e-4).grad_norm)


def main():
    """Print a table of all shapes on these backends, or measure the one case that is given."""
    if sys.argv[1:2] and sys.argv[1].startswith("["):
        print(measure(*json.loads(sys.argv[1])))
        return
    chosen = set(sys.argv[1:])
    heading = ("backend", "model", "batch", "precision", "recomputed")
    rows = [(*heading, "measured", "plan", "ratio", "by default")]
    for backend in [one for one in BACKENDS if one in chosen] or BACKENDS:
        for name, edits, B, A, T in SHAPES:
            for precision, grad_checkpoint in VARIANTS:
                if chosen & PRECISIONS and precision not in chosen:
                    continue
                case = [backend, name, edits, B, A, T, precision, grad_checkpoint]
                command = [sys.executable, __file__, json.dumps(case)]
                environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
                found = int(subprocess.check_output(command, text=True, env=environment))
                usual = int(subprocess.check_output(command)) if backend == "torch" else found
                spec = mal.load(name)
                spec = mal.edit_all(spec, edits) if edits else spec
                recipe = Recipe(batch_size=B, grad_accum=A, seq_len=T)
                placement = Placement(backend, "cpu", precision, grad_checkpoint)
                plan = plan_memory(spec, recipe, placement).total
                changed = ", ".join(f"{key} {value}" for key, value in edits.items())
                rows.append(
                    (
                        *(backend, f"{name} {changed}".strip(), f"{A} x {B} x {T}", precision),
                        "yes" if grad_checkpoint else "",
                        *(f"{found / 1e6:,.0f} MB", f"{plan / 1e6:,.0f} MB", f"{plan / found:.2f}"),
                        f"{usual / 1e6:,.0f} MB",
                    )
                )
                print("\n".join(format_columns(rows[-1:])), flush=True)
    print("\n".join(format_columns(rows, right=(5, 6, 7, 8))))


if __name__ == "__main__":
    main()
