"""Count the operations, graphs and waits of a piece of work, from the graphs that MLX evaluates."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import mlx.core as mx
from mlx.utils import tree_flatten

from hermes.work_counts import WorkCounts
from hermes_mlx.learner import Learner
from hermes_mlx.runtime import Runtime

LABEL = re.compile(r'label ?= ?"([^"]+)"')
FUSED = "ScaledDotProductAttention"
WRITTEN_OUT = "written out"
# What Python calls to read an array's numbers, besides Runtime.to_numpy.
READS = ("item", "tolist", "__float__", "__int__", "__bool__")
ON_CPU = "on CPUs hermes_mlx writes attention out: exp as a power is faster there than MLX's kernel"
IN_TRAINING = "MLX's fused attention has no gradient on this device, so MLX writes it out"


class Recorder:
    """Looks at each graph before MLX evaluates it; after that, the graph is gone."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.traces = self.host_reads = 0
        self.has_learned = False
        self.devices: set[bool] = set()  # of what ran: whether it is the GPU

    def record(self, *trees: Any) -> None:
        """Count the operations that these arrays still wait for."""
        leaves: Any = tree_flatten(list(trees))  # of pairs, though MLX's type says otherwise
        arrays = [x for _, x in leaves if isinstance(x, mx.array)]
        text = io.StringIO()
        if arrays:
            mx.export_to_dot(text, *arrays)
        self.operations.update(LABEL.findall(text.getvalue()))

    def wrap_evaluation(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """mx.eval or mx.async_eval, recorded."""

        def run(*trees: Any) -> Any:
            self.record(*trees)
            return original(*trees)

        return run

    def wrap_result(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Runtime.to_numpy, recorded and counted, with its device."""
        read = self.wrap_reading(original, of=1)

        def run(runtime: Runtime, array: Any) -> Any:
            self.devices.add(runtime.is_on_gpu)
            return read(runtime, array)

        return run

    def wrap_reading(self, original: Callable[..., Any], *, of: int = 0) -> Callable[..., Any]:
        """A function that reads its argument number `of` from the device, recorded and counted."""

        def run(*arguments: Any) -> Any:
            self.record(arguments[of])
            self.host_reads += 1
            return original(*arguments)

        return run

    def wrap_compile(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """mx.compile, whose functions are counted each time that they are traced."""

        def compile_counted(function: Callable[..., Any], *rest: Any, **named: Any) -> Any:
            def traced(*arguments: Any) -> Any:
                self.traces += 1
                return function(*arguments)

            return original(traced, *rest, **named)

        return compile_counted

    def wrap_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Learner._accumulate, noted with its device."""

        def run(learner: Learner, *arguments: Any) -> Any:
            self.has_learned = True
            self.devices.add(learner.runtime.is_on_gpu)
            return original(learner, *arguments)

        return run


@contextmanager
def record_graphs() -> Iterator[Recorder]:
    """A context in which everything that hermes_mlx evaluates is recorded."""
    recorder = Recorder()
    with ExitStack() as stack:

        def patch(target: Any, name: str, wrapper: Callable[..., Any]) -> None:
            changed = wrapper(getattr(target, name))
            stack.enter_context(mock.patch.object(target, name, changed))

        patch(mx, "eval", recorder.wrap_evaluation)
        patch(mx, "async_eval", recorder.wrap_evaluation)
        patch(mx, "compile", recorder.wrap_compile)
        patch(Runtime, "to_numpy", recorder.wrap_result)
        for name in READS:
            patch(mx.array, name, recorder.wrap_reading)
        patch(Learner, "_accumulate", recorder.wrap_step)
        yield recorder


def count_work(run: Callable[[], object]) -> WorkCounts:
    """Call run() and count what it did; see hermes.work_counts.CountsWork.

    MLX compiles a function whole or fails, so no graph is ever broken.
    """
    with record_graphs() as recorder:
        run()
    operations = dict(recorder.operations)
    fused = operations.get(FUSED, 0)
    reason = ""
    if not fused and recorder.devices == {False}:  # also where there is a GPU beside it
        reason = ON_CPU
    elif not fused and recorder.has_learned:
        reason = IN_TRAINING
    return WorkCounts(
        operations=operations,
        attention=(FUSED if fused else WRITTEN_OUT,),
        fused_attention=fused,
        unfused_reason=reason,
        graphs=recorder.traces,
        host_reads=recorder.host_reads,
    )
