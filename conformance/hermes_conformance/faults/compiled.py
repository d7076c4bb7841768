"""Faults of compiled learners alone."""

from dataclasses import replace
from importlib import import_module

from hermes_conformance.faults.fault import Fault, Inside
from hermes_conformance.faults.kernels import sloped

SHORT = "L4/compiled-bfloat16"


def _compiled(change, precision="bfloat16"):
    """change(inside, engine) in compiled learners of that precision, and in no other."""

    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, engine, *given):
                original(self, engine, *given)
                if self._compiles() and engine.options.precision == precision:
                    change(inside, engine)

            return wrong

        inside.method("learner", "Learner", "__init__", make)

    return plant


def _next_token(change):
    """change(inside, loss) of the next token."""

    def turn(inside, engine):
        score = engine.ops.next_token
        engine.ops = replace(engine.ops, next_token=lambda *x: change(inside, score(*x)))

    return turn


def _no_cap(inside, engine):
    engine.module.lm_head.softcap = None


def _no_documents(inside, engine):
    engine.documents = lambda segments: (None, None)


def _steeper_pairs(inside, engine):
    def twice(*given):
        loss, sums = score(*given)
        return sloped(inside, 2.0, loss), sums

    score = engine.ops.preference
    engine.ops = replace(engine.ops, preference=twice)


def _slope_when_compiling(inside: Inside) -> None:
    """The branch of value_and_slope that only a compiler takes."""

    def make(original):
        def wrong(*given):
            value, slope = original(*given)
            compiling = import_module("torch").compiler.is_compiling()
            return value, 2 * slope if compiling else slope

        return wrong

    inside.wrap(inside.module("chunked_loss"), "value_and_derivative", make)


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
