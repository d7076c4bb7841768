"""Every intermediate tensor of a forward pass, recorded from outside: model.py stays as it is.

The modules of the three columns have the same classes and names, so the records of two backends
can be laid side by side. A backend of another make has no taps.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from hermes.errors import Unsupported
from hermes_conformance.case import Case
from hermes_conformance.sabotage.fault import CALLS, TABLES, Inside
from hermes_conformance.side import Side

TAPPED = (
    "Linear",
    "Embedding",
    "Norm",
    "Attention",
    "FeedForward",
    "Block",
    "Stack",
    "Head",
)


@dataclass(frozen=True)
class Record:
    """A tensor: the module it is of, what it is of that module ('' for its output), its numbers."""

    path: str
    what: str
    value: np.ndarray

    @property
    def name(self) -> str:
        """`model.layers.0.self_attn: q after rope`."""
        return f"{self.path}: {self.what}" if self.what else self.path


class _Tape:
    """What has been recorded so far, and in which module the pass is."""

    def __init__(self, read: Callable[[Any], np.ndarray]):
        self.read, self.records, self.paths, self.inside = read, [], {}, []
        self.turned = 0

    def keep(self, what: str, value: Any) -> None:
        path = self.inside[-1] if self.inside else "model"
        self.records.append(Record(path, what, self.read(value)))


def trace(side: Side, case: Case, precision: str = "float64") -> list[Record]:
    """The records of one forward pass of the case's first micro-batch. Raises Unsupported."""
    if side.name not in CALLS or find_spec(f"hermes_{side.name}") is None:
        raise Unsupported(f"hermes_{side.name} has no taps; its model is not one of the columns")
    with ExitStack() as stack:
        inside = Inside(side.name, stack)
        tape = _Tape(_reader(side.name))
        _tap_tables(inside, tape)
        _tap_modules(inside, tape)
        side.forget()
        model = side.model(case, precision)
        module = model._module if side.name == "numpy" else model.engine.module
        tape.paths = {id(node): path for path, node in _walk(side.name, module)}
        model.logits(case.tokens, case.segments)
    side.forget()
    return tape.records


def _reader(name: str) -> Callable[[Any], np.ndarray]:
    if name == "numpy":
        return lambda x: np.array(x, np.float64)
    if name == "torch":
        return lambda x: x.detach().double().cpu().numpy()

    def read(x):
        import mlx.core as mx

        wide = x if x.dtype == mx.float64 else x.astype(mx.float32)
        return np.array(wide).astype(np.float64)

    return read


def _tap_modules(inside: Inside, tape: _Tape) -> None:
    def tapped(original):
        def call(self, *given):
            path = tape.paths.get(id(self), "")
            tape.inside.append(path)
            try:
                y = original(self, *given)
                tape.keep("", y)
            finally:
                tape.inside.pop()
            return y

        return call

    for name in TAPPED:
        inside.forward(name, tapped)


def _tap_tables(inside: Inside, tape: _Tape) -> None:
    def rotate(original):
        def call(x, cos, sin):
            y = original(x, cos, sin)
            tape.keep(f"{'qk'[tape.turned % 2]} after rope", y)
            tape.turned += 1
            return y

        return call

    def attend(original):
        def call(q, k, v, *rest):
            for what, x in (("q", q), ("k", k), ("v", v)):
                tape.keep(f"{what} read by attention", x)
            y = original(q, k, v, *rest)
            tape.keep("values mixed", y)
            return y

        return call

    def activation(original):
        def call(x):
            y = original(x)
            tape.keep("after the activation", y)
            return y

        return call

    def activations(table):
        return {name: activation(function) for name, function in table.items()}

    changes = {"rotate": rotate, "attend": attend, "activations": activations}
    if inside.name == "numpy":
        for name, make in changes.items():
            inside.wrap(inside.module("ops"), name, make)
        return
    engine = inside.module("engine")
    for table in TABLES:
        if hasattr(engine, table):
            found = getattr(engine, table)
            made = {name: make(getattr(found, name)) for name, make in changes.items()}
            inside.replace(engine, table, replace(found, **made))


def _walk(name: str, module: Any):
    """(path, module) of every module."""
    if name != "numpy":
        yield from module.named_modules()
        return
    todo = [("", module)]
    while todo:
        path, node = todo.pop()
        yield path, node
        for key, value in vars(node).items():
            inner = f"{path}.{key}" if path else key
            if isinstance(value, list):
                todo += [(f"{inner}.{i}", item) for i, item in enumerate(value)]
            elif hasattr(value, "load") and callable(value):
                todo.append((inner, value))
