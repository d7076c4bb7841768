"""What a training step and a decoding step of each backend are made of, counted, not timed.

kernels: operations that compute or copy, as the framework runs them, without views. allocations:
of their results, those with memory of their own. bytes_read and bytes_written: of their arrays; of
MLX by the parts of a step, as it exports no graph that has a gradient of our own: both passes of
the blocks, the chunked loss with its gradients, and the update. graphs: of torch.compile, for both
passes, of mx.compile, and of decoding on CUDA the steps that are captured, and graph_operations in
them. host_reads: numbers read from the device.

    python -m tests.backends.counting        renews work_counts.json, to be read as a diff

Renew it when a change is meant to alter the counts, and say in its commit what it bought: more
kernels or bytes are slower on every device, also where no clock of this machine can tell.
"""

import json
import platform
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from hermes.interface import Batch, Options, TokenChoice, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec
from hermes_torch import learner as torch_learner
from tests.backends.mlx_graphs import MLX_VIEWS, count_compiled, count_graph, count_training
from tests.backends.torch.recorded_steps import record_steps

GOLDEN = Path(__file__).with_name("work_counts.json")
T, CAPACITY = 64, 128
OPTIONS = Options(device="cpu", compile=False, as_trained=True)
FREE = Options(device="cpu", compile=False)  # matrices of one input are joined, also on MLX
PROMPT, WRITTEN = 8, 24  # tokens of a text


def make_spec():
    """Two layers of trained proportions: grouped heads of 64, gated, tied."""
    block = BlockSpec(AttentionSpec(3, 1, head_dim=64), FfnSpec(hidden_dim=128))
    return ModelSpec((block,), "counted", "", 256, CAPACITY, 48, 2, EmbeddingsSpec(True))


def make_batch(A=2):
    """Random tokens, each of which counts."""
    ids = np.random.default_rng(0).integers(0, 256, (A, 2, T + 1), np.int32)
    rows = np.arange(2 * A, dtype=np.uint32).reshape(A, 2)
    return Batch(ids[..., :-1], ids[..., 1:].copy(), rows)


def make_learner(name, options=OPTIONS):
    """A learner that has taken a step."""
    spec = make_spec()
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    learner = find_backend(name).learner(spec, state, Recipe(), options)
    float(learner.step(make_batch(), 1e-3).loss)
    return learner


def make_model(name, options=OPTIONS):
    """A model that only runs."""
    spec = make_spec()
    return find_backend(name).build(spec, init_weights(spec, 0), options)


def make_decoder(name, options=OPTIONS):
    """A decoder that has read a prompt."""
    decoder = make_model(name, options).decoder(1, CAPACITY)
    decoder.advance(np.zeros((1, PROMPT), np.int32))
    return decoder


def make_rows_step(name, kind):
    """What takes a step of two rows of different lengths. kind: the model's method."""
    decoder, rows = getattr(make_model(name), kind)(2, CAPACITY), [0, 1]
    for row in rows:
        decoder.open_row(row, CAPACITY)
    decoder.advance(rows, np.zeros((2, PROMPT), np.int32), [PROMPT, PROMPT - 1])

    def advance():
        decoder.advance(rows, np.zeros((2, 1), np.int32), [1, 1])

    advance()
    return advance


def make_device_step(name):
    """What begins a step of two rows of a GPU's decoder, whose tokens the last one has chosen."""
    decoder = make_model(name).make_device_row_decoder(2, CAPACITY)
    rows, choices = [0, 1], [TokenChoice(), TokenChoice(1.0, top_k=20, top_p=0.9)]
    for row in rows:
        decoder.open_row(row, CAPACITY)
    decoder.advance(rows, np.zeros((2, PROMPT), np.int32), [PROMPT, PROMPT])

    def begin(tokens=-1):
        ids = np.full(2, tokens, np.int32)
        return decoder.begin_choice(rows, ids, choices, [0.5, 0.5], make_spec().vocab_size)

    begin(1)()
    return begin


def is_view(function):
    """Whether an operation of torch gives its input's memory another shape."""
    schema = function._schema
    return any(one.alias_info is not None for one in schema.returns) and not schema.is_mutable


class Kernels(TorchDispatchMode):
    """Counts torch's operations below autograd."""

    def __init__(self):
        super().__init__()
        self.counts = dict.fromkeys(("kernels", "allocations", "bytes_read", "bytes_written"), 0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if is_view(function):
            return result
        read, written = (
            [x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]
            for tree in ((args, kwargs), result)
        )
        self.counts["kernels"] += 1
        self.counts["allocations"] += 0 if function._schema.is_mutable else len(written)
        self.counts["bytes_read"] += sum(x.nbytes for x in read)
        self.counts["bytes_written"] += sum(x.nbytes for x in written)
        return result


def count_torch(run):
    """Kernels, bytes and host reads of run()."""
    with Kernels() as kernels:
        run()
    reads = find_backend("torch").count_work(run).host_reads
    return {**kernels.counts, "host_reads": reads}


def count_compiled_torch():
    """Graphs of a compiled step, and the operations in them, by a compiler that only looks."""
    sizes = []

    def look(graph, example):
        sizes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    made = aot_autograd(fw_compiler=look, bw_compiler=look)
    original = torch_learner.compile_function
    torch_learner.compile_function = partial(torch.compile, dynamic=False, backend=made)
    try:
        torch.compiler.reset()
        make_learner("torch", Options(device="cpu", compile=True))
    finally:
        torch_learner.compile_function = original
        torch.compiler.reset()
    return {"graphs": len(sizes), "graph_operations": sum(sizes)}


def count_captured_torch():
    """What of a text's steps CUDA would capture, recorded here, and the operations in it."""
    with record_steps() as made:
        decoder = make_model("torch").make_device_decoder(1, CAPACITY)
        decoder.advance(np.zeros((1, PROMPT), np.int32))
        for _ in range(WRITTEN):
            decoder.advance(np.zeros((1, 1), np.int32))
    (steps,) = made
    kernels = [function for one in steps.captured for function, *_ in one.steps]
    return {
        "graphs": len(steps.captured),
        "graph_operations": sum(not is_view(function) for function in kernels),
    }


def count_mlx(run):
    """Operations that run() evaluates, as MLX fuses them, and host reads."""
    counts = find_backend("mlx").count_work(run)
    kernels = sum(n for name, n in counts.operations.items() if name not in MLX_VIEWS)
    return {"kernels": kernels, "host_reads": counts.host_reads}


def count_mlx_forward():
    """The graph of the logits of a micro-batch."""
    runtime = make_learner("mlx").runtime
    tokens = mx.array(make_batch().tokens[0])
    with runtime.apply_options():
        return count_graph(lambda x: runtime.module(x, runtime.make_context()), tokens)


def count_mlx_step():
    """The graph of a decoding step."""
    decoder = make_decoder("mlx")
    with decoder._runtime.apply_options():
        return count_graph(decoder._begin_read, mx.zeros((1, 1), mx.int32))


def take_compiled_step():
    """A step of a new learner of MLX, compiled."""
    spec = make_spec()
    state, options = TrainState(init_weights(spec, 0), {}, {}, 0), Options("cpu", compile=True)
    find_backend("mlx").learner(spec, state, Recipe(), options).step(make_batch(1), 1e-3)


def count_everything():
    """The counts of each backend's steps, and the versions that they are of."""
    learner, mlx_learner, batch = make_learner("torch"), make_learner("mlx"), make_batch()
    token = np.zeros((1, 1), np.int32)
    torch_decoder, mlx_decoder = make_decoder("torch"), make_decoder("mlx")
    torch_step, mlx_step = make_device_step("torch"), make_device_step("mlx")
    mlx_free = make_decoder("mlx", FREE)
    return {
        "versions": {
            **find_backend("torch").versions(),
            **find_backend("mlx").versions(),
            "machine": f"{platform.system()} {platform.machine()}",
        },
        "torch training": count_torch(lambda: float(learner.step(batch, 1e-3).loss)),
        "torch compiled training": count_compiled_torch(),
        "torch decoding": count_torch(lambda: torch_decoder.advance(token)),
        "torch captured decoding": count_captured_torch(),
        "torch rows": count_torch(make_rows_step("torch", "row_decoder")),
        "torch invariant rows": count_torch(make_rows_step("torch", "invariant_row_decoder")),
        "torch device step": count_torch(torch_step),
        "mlx forward": count_mlx_forward(),
        "mlx decoding step": count_mlx_step(),
        **count_training(mlx_learner, make_batch(1)),
        "mlx compiled training": count_compiled(take_compiled_step),
        "mlx training": count_mlx(lambda: float(mlx_learner.step(batch, 1e-3).loss)),
        "mlx decoding": count_mlx(lambda: mlx_decoder.advance(token)),
        "mlx joined decoding": count_mlx(lambda: mlx_free.advance(token)),
        "mlx rows": count_mlx(make_rows_step("mlx", "row_decoder")),
        "mlx invariant rows": count_mlx(make_rows_step("mlx", "invariant_row_decoder")),
        "mlx device step": count_mlx(mlx_step),
    }


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(count_everything(), indent=2) + "\n", encoding="utf-8")
