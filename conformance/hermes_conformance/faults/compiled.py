"""Faults that only compiled learners have."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.kernels import scale_gradient
from hermes_conformance.faults.patcher import Function, Patcher

SHORT = "L4/compiled-bfloat16"


def _change_compiled(change, precision="bfloat16"):
    """Call change(patcher, runtime) for compiled learners of this precision only."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, runtime, *args):
                original(self, runtime, *args)
                if self._uses_compile() and runtime.options.precision == precision:
                    change(patcher, runtime)

            return faulty

        patcher.wrap_method("learner", "Learner", "__init__", wrap)

    return plant


def _change_loss(change: Function) -> Function:
    """Change the runtime's next-token loss to change(patcher, loss)."""

    def change_runtime(patcher, runtime):
        original = runtime.ops.next_token
        runtime.ops = replace(runtime.ops, next_token=lambda *x: change(patcher, original(*x)))

    return change_runtime


def _drop_softcap(patcher, runtime):
    runtime.module.lm_head.softcap = None


def _drop_documents(patcher, runtime):
    runtime.load_segments = lambda segments: (None, None)


def _double_pair_gradients(patcher, runtime):
    original = runtime.ops.preference

    def faulty(*args):
        loss, sums = original(*args)
        return scale_gradient(patcher, 2.0, loss), sums

    runtime.ops = replace(runtime.ops, preference=faulty)


def _double_slopes_when_compiling(patcher: Patcher) -> None:
    """Change value_and_grad only while a compiler traces it."""

    def wrap(original):
        def faulty(*args):
            value, slope = original(*args)
            compiling = import_module("torch").compiler.is_compiling()
            return value, 2 * slope if compiling else slope

        return faulty

    patcher.wrap(patcher.load_module("chunked_loss"), "value_and_grad", wrap)


def _attend_in_small_blocks(patcher: Patcher) -> None:
    """Attention in bfloat16 is in blocks of a few queries, on any processor; all compiled anew."""
    import_module("torch").compiler.reset()
    blocks = patcher.load_module("block_attention")
    patcher.replace(blocks, "FASTER", True)
    patcher.replace(blocks, "LEAST_QUERIES", 2)
    patcher.replace(blocks, "BLOCK", 2)
    patcher.wrap(blocks, "_compile", lambda original: original.__wrapped__)


def _change_blocks(name: str, change: Callable[[Function], Function]) -> Plant:
    """A function of attention in blocks is change(it)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap(patcher.load_module("block_attention"), name, change)

    return plant


def _miss_first_key(allows):
    """A query after the first reads all keys up to its own but the first."""

    def faulty(start, end):
        read = allows(start, end)
        read[1:, 0] = False
        return read

    return faulty


def _lose_later_blocks(add_blocks):
    """Keys and values have no gradient of queries after the first block."""
    return lambda blocks, *sizes: add_blocks([blocks[0], *(0 * b for b in blocks[1:])], *sizes)


def _make_fault(
    name: str,
    law: str,
    case: str,
    plant: Plant,
    only: str | None = None,
    under: Plant | None = None,
) -> Fault:
    return Fault(name, "compiled", law, case, plant, only, under)


def _make_block_fault(name: str, function: str, change: Callable[[Function], Function]) -> Fault:
    plant = _change_blocks(function, change)
    return _make_fault(name, SHORT, "compiled.causal/hot", plant, "torch", _attend_in_small_blocks)


FAULTS = (
    _make_fault(
        "a compiled loss is off by a thousandth",
        "L4/compiled",
        "compiled.dropout/hot",
        _change_compiled(_change_loss(lambda patcher, loss: 1.001 * loss), "float32"),
    ),
    _make_fault(
        "compiled bfloat16 has half as much gradient again",
        SHORT,
        "compiled.packed/hot",
        _change_compiled(_change_loss(lambda patcher, loss: scale_gradient(patcher, 1.5, loss))),
    ),
    _make_fault(
        "compiling loses the cap", SHORT, "compiled.packed/hot", _change_compiled(_drop_softcap)
    ),
    _make_fault(
        "compiling loses the documents",
        SHORT,
        "compiled.packed/hot",
        _change_compiled(_drop_documents),
    ),
    _make_fault(
        "compiled pairs have twice their gradient",
        SHORT,
        "compiled.pairs/hot",
        _change_compiled(_double_pair_gradients),
        "mlx",
    ),
    _make_fault(
        "slopes are doubled where a compiler looks",
        SHORT,
        "compiled.pairs/hot",
        _double_slopes_when_compiling,
        "torch",
    ),
    _make_block_fault("a block of queries misses the first key", "_allows", _miss_first_key),
    _make_block_fault(
        "queries after the first block give keys no gradient", "_add_blocks", _lose_later_blocks
    ),
    _make_block_fault(
        "what is taken off a block's scores is halved",
        "_subtract",
        lambda subtract: lambda x, number: subtract(x, number / 2),
    ),
)
