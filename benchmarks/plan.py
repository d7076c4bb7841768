"""Peak memory of real training steps, each in a process of its own, beside what a plan says.

    python benchmarks/plan.py [BACKEND | PRECISION | MODEL | recomputed]...

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
from hermes.numerics.lora import init_adapters
from hermes.numerics.params import init_weights
from hermes.recipe import Lora, OptimizerRecipe, Recipe

LAYERS = {"num_layers": "3", "vocab_size": "8000"}
LORA = {"lora": {"rank": 8}}
# model, edits, batch size, tokens of a row, the rest of the recipe
SHAPES = (
    ("nano", {}, 32, 128, {}),
    ("tiny", {}, 8, 256, {}),
    ("tiny", {}, 8, 256, {"grad_accum": 2}),
    ("tiny", {}, 8, 256, {"optimizer": {"name": "muon"}}),
    ("tiny", {}, 1, 128, {"optimizer": {"name": "adamw", "moments": "float8"}}),
    ("tiny", {}, 8, 256, {"optimizer": {"name": "adafactor"}}),
    ("tiny", {}, 8, 256, LORA),
    ("tiny", {"num_layers": "10", "vocab_size": "500"}, 4, 128, {}),
    ("gpt2-small", LAYERS, 2, 256, {}),
    ("smol-llama", LAYERS, 2, 256, {}),
    ("smol-llama", LAYERS, 2, 256, LORA),
    ("smol-llama", LAYERS, 1, 64, {"optimizer": {"name": "lion"}}),
)
BACKENDS = ("torch", "mlx")
VARIANTS = (("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True))

PRECISIONS = {precision for precision, _ in VARIANTS}
MODELS = {shape[0] for shape in SHAPES}


def read_status(key):
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise LookupError(key)


def make_case(name, edits, B, T, fields):
    """The spec and recipe of a shape."""
    spec = mal.load(name)
    spec = mal.edit_all(spec, edits) if edits else spec
    fields = dict(fields)
    lora, optimizer = fields.pop("lora", None), fields.pop("optimizer", {})
    recipe = Recipe(
        batch_size=B, seq_len=T, lora=Lora(**lora) if lora else None,
        optimizer=OptimizerRecipe(**optimizer), **fields,
    )  # fmt: skip
    return spec, recipe


def measure(backend, precision, grad_checkpoint, *shape):
    """Bytes at the peak of three steps in this process."""
    spec, recipe = make_case(*shape)
    A, B, T = recipe.grad_accum, recipe.batch_size, recipe.seq_len
    weights = init_weights(spec, 0)
    if recipe.lora:
        weights = {**weights, **init_adapters(spec, recipe.lora, 0, weights)}
    # Initial weights are drawn anew when they are read, so they can be read again.
    state = TrainState(weights, {}, {}, 0, can_reread=True)
    options = Options(device="cpu", precision=precision, grad_checkpoint=grad_checkpoint)
    ids = np.random.default_rng(0).integers(0, spec.vocab_size, (A, B, T + 1)).astype(np.int32)
    rows = np.arange(A * B, dtype=np.uint32).reshape(A, B)
    batch = Batch(ids[..., :-1], ids[..., 1:].copy(), rows)
    warm_up(backend, options)
    gc.collect()
    before = read_status("VmRSS")
    learner = find_backend(backend).learner(spec, state, recipe, options)
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
        for shape in SHAPES:
            if chosen & MODELS and shape[0] not in chosen:
                continue
            for precision, grad_checkpoint in VARIANTS:
                if chosen & PRECISIONS and precision not in chosen:
                    continue
                if "recomputed" in chosen and not grad_checkpoint:
                    continue
                rows.append(compare(backend, precision, grad_checkpoint, shape))
                print("\n".join(format_columns(rows[-1:])), flush=True)
    print("\n".join(format_columns(rows, right=(5, 6, 7, 8))))


def compare(backend, precision, grad_checkpoint, shape):
    """The line of a case: what its steps take in a process of their own, and what is planned."""
    case = [backend, precision, grad_checkpoint, *shape]
    command = [sys.executable, __file__, json.dumps(case)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    found = int(subprocess.check_output(command, text=True, env=environment))
    usual = int(subprocess.check_output(command)) if backend == "torch" else found
    spec, recipe = make_case(*shape)
    placement = Placement(backend, "cpu", precision, grad_checkpoint)
    plan = plan_memory(spec, recipe, placement).total
    name, edits, B, T, fields = shape
    words = [name, *(f"{key} {value}" for key, value in edits.items())]
    words += [str(value) for key, value in fields.items() if key != "grad_accum"]
    return (
        *(backend, ", ".join(words), f"{recipe.grad_accum} x {B} x {T}", precision),
        "yes" if grad_checkpoint else "",
        *(f"{found / 1e6:,.0f} MB", f"{plan / 1e6:,.0f} MB", f"{plan / found:.2f}"),
        f"{usual / 1e6:,.0f} MB",
    )


if __name__ == "__main__":
    main()
