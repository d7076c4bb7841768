"""Faults of compiled learners alone."""

from dataclasses import replace
from importlib import import_module

from hermes_conformance.faults.fault import Fault, Inside
from hermes_conformance.faults.kernels import sloped

SHORT = "L4/compiled-bfloat16"


def _compiled(change, precision="bfloat16"):
    """change(inside, runtime) in compiled learners of that precision, and in no other."""

    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, runtime, *given):
                original(self, runtime, *given)
                if self._uses_compile() and runtime.options.precision == precision:
                    change(inside, runtime)

            return wrong

        inside.method("learner", "Learner", "__init__", make)

    return plant


def _next_token(change):
    """change(inside, loss) of the next token."""

    def turn(inside, runtime):
        score = runtime.ops.next_token
        runtime.ops = replace(runtime.ops, next_token=lambda *x: change(inside, score(*x)))

    return turn


def _no_cap(inside, runtime):
    runtime.module.lm_head.softcap = None


def _no_documents(inside, runtime):
    runtime.load_segments = lambda segments: (None, None)


def _steeper_pairs(inside, runtime):
    def twice(*given):
        loss, sums = score(*given)
        return sloped(inside, 2.0, loss), sums

    score = runtime.ops.preference
    runtime.ops = replace(runtime.ops, preference=twice)


def _slope_when_compiling(inside: Inside) -> None:
    """The branch of value_and_grad that only a compiler takes."""

    def make(original):
        def wrong(*given):
            value, slope = original(*given)
            compiling = import_module("torch").compiler.is_compiling()
            return value, 2 * slope if compiling else slope

        return wrong

    inside.wrap(inside.module("chunked_loss"), "value_and_grad", make)


def _fault(name, law, case, plant, only=None):
    return Fault(name, "compiled", law, case, plant, only)


FAULTS = (
    _fault(
        "a compiled loss is off by a thousandth",
        "L4/compiled",
        "compiled.dropout/hot",
        _compiled(_next_token(lambda inside, loss: 1.001 * loss), "float32"),
    ),
    _fault(
        "compiled bfloat16 has half as much gradient again",
        SHORT,
        "compiled.packed/hot",
        _compiled(_next_token(lambda inside, loss: sloped(inside, 1.5, loss))),
    ),
    _fault("compiling loses the cap", SHORT, "compiled.packed/hot", _compiled(_no_cap)),
    _fault("compiling loses the documents", SHORT, "compiled.packed/hot", _compiled(_no_documents)),
    _fault(
        "compiled pairs have twice their gradient",
        SHORT,
        "compiled.pairs/hot",
        _compiled(_steeper_pairs),
        "mlx",
    ),
    _fault(
        "slopes are doubled where a compiler looks",
        SHORT,
        "compiled.pairs/hot",
        _slope_when_compiling,
        "torch",
    ),
)
