"""Kernels, bytes and allocations of MLX's steps, from graphs that are exported and not run."""

import math
from unittest import mock

import mlx.core as mx
from mlx.utils import tree_flatten

from hermes.interface import find_backend
from hermes_mlx.work_counts import Recorder

# Operations of MLX that give their input's memory another shape.
MLX_VIEWS = {
    "AsStrided", "Broadcast", "BroadcastAxes", "Copy", "ExpandDims", "Flatten", "Reshape", "Slice",
    "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten",
}  # fmt: skip


def count_bytes(shape, dtype):
    """The bytes of one of MLX's arrays."""
    return math.prod(shape) * dtype.size


def count_graph(function, *arrays):
    """Kernels and bytes of the graph of function(*arrays), which is not run."""
    told = []
    mx.export_function(told.append, function, *arrays)
    kernels = [one for one in told if one.get("name", "View") not in {*MLX_VIEWS, "View"}]
    read, written = (
        sum(count_bytes(shape, dtype) for one in kernels for _, shape, dtype in one[side])
        for side in ("inputs", "outputs")
    )
    made = sum(len(one["outputs"]) for one in kernels)
    return {
        "kernels": len(kernels),
        "allocations": made,
        "bytes_read": read,
        "bytes_written": written,
    }


def leave_lazy(*trees):
    """In the place of mx.eval, where a graph is only looked at."""


class WithoutGradient:
    """In the place of mx.custom_function, whose graphs cannot be exported: keeps its results."""

    results: tuple[mx.array, ...] = ()

    def __init__(self, function):
        self._function = function

    def vjp(self, function):
        """Nothing: the loss computes its gradients with itself, and this only scales them."""
        return function

    def __call__(self, *arrays):
        WithoutGradient.results = self._function(*arrays)
        return WithoutGradient.results


def list_arrays(tree):
    """The arrays of a tree, in its order."""
    return [one for _, one in tree_flatten(tree) if isinstance(one, mx.array)]


def count_training(learner, batch):
    """The graphs of a step's parts: passes and loss of one micro-batch, and the update."""
    runtime, optimizer, weights = learner.runtime, learner._optimizer, dict(learner._params)
    tokens, targets = mx.array(batch.tokens[0]), mx.array(batch.targets[0])
    slots = [(slot, name) for slot, held in optimizer.kept.items() for name in held]
    kept = [optimizer.kept[slot][name] for slot, name in slots]

    def compute_hidden(*arrays):
        runtime.set_parameters(dict(zip(weights, arrays, strict=True)))
        return runtime.module.model(tokens, runtime.make_context())

    def run_passes(cotangent, *arrays):
        return list_arrays(mx.vjp(compute_hidden, list(arrays), [cotangent]))

    def compute_loss(x, *arrays):
        runtime.set_parameters(dict(zip(weights, arrays, strict=True)))
        layout = learner._choose_layout(batch.targets[0], False)
        runtime.ops.next_token(runtime.module, x, targets, layout, None, 0.0, None)
        return list_arrays(WithoutGradient.results)

    def update(*arrays):
        n = len(weights)
        params = dict(zip(weights, arrays[:n], strict=True))
        grads = dict(zip(weights, arrays[n : 2 * n], strict=True))
        stored = {slot: {} for slot in optimizer.kept}
        for (slot, name), array in zip(slots, arrays[2 * n :], strict=True):
            stored[slot][name] = array
        scalars = optimizer.compute_scalars(1e-3, 2)
        return list_arrays(
            learner._update(params, stored, grads, mx.zeros(()), scalars, None, None)
        )

    with (
        runtime.apply_options(),
        mock.patch.object(mx, "eval", leave_lazy),
        mock.patch.object(mx, "custom_function", WithoutGradient),
    ):
        x = compute_hidden(*weights.values())
        arrays = list(weights.values())
        found = {
            "mlx passes": count_graph(run_passes, x, *arrays),
            "mlx loss": count_graph(compute_loss, x, *arrays),
            "mlx update": count_graph(update, *arrays, *arrays, *kept),
        }
    WithoutGradient.results = ()
    return found


def count_compiled(take_step):
    """Functions that mx.compile traces in take_step(), and operations of the graph, which waits.

    Its compiler takes long to write the kernels for a CPU, and they are the same on every machine.
    """
    evaluated = []
    with (
        mock.patch.object(mx, "eval", leave_lazy),
        mock.patch.object(mx, "async_eval", lambda *trees: evaluated.append(trees)),
    ):
        graphs = find_backend("mlx").count_work(take_step).graphs
    recorder = Recorder()
    recorder.record(*evaluated[-1])
    kernels = sum(n for name, n in recorder.operations.items() if name not in MLX_VIEWS)
    return {"graphs": graphs, "graph_operations": kernels}
