"""Every intermediate tensor of forward passes, recorded from outside: model.py stays as it is.

Of a whole pass, of a cache's reads, or of the passes of an update, with its dropout.

The modules of the three columns have the same classes and names, so the records of two backends
can be laid side by side. So can those of any backend that is laid out as they are: the classes in
`hermes_NAME.model`, and the functions they call in the tables of `hermes_NAME.runtime` (in
`hermes_NAME.ops` where there is one way of each).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np

from hermes.errors import Unsupported
from hermes_conformance.cases.case import Case
from hermes_conformance.faults.fault import TABLES, Inside
from hermes_conformance.laws.semantics import cut
from hermes_conformance.measure.subject import BackendUnderTest

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
FUNCTIONS = ("rotate", "attention", "activations")


@dataclass(frozen=True)
class Record:
    """A tensor: the module it is of, what it is of that module ('' for its output), its numbers.

    during: which pass of several.
    """

    path: str
    what: str
    value: np.ndarray
    during: str = ""

    @property
    def name(self) -> str:
        """`read 3 of 4: layers.0.self_attn: q after rope`."""
        return ": ".join(filter(None, (self.during, self.path.removeprefix("model."), self.what)))


class _Tape:
    """What has been recorded so far, in which module the pass is, and in which pass of `during`."""

    def __init__(self, during: tuple[str, ...]) -> None:
        self.records: list[Record] = []
        self.paths: dict[int, str] = {}
        self.inside: list[str] = []
        self.turned, self.passes, self.during = 0, 0, during

    def keep(self, what: str, value: Any) -> None:
        path = self.inside[-1] if self.inside else "model"
        during = self.during[max(self.passes - 1, 0)]
        self.records.append(Record(path, what, _read(value), during))


@dataclass(frozen=True)
class Way:
    """A way through a model: what it is called, and what each of its passes is.

    make: what computes; run: lets it. head: whether every pass makes the logits of its last token
    at least; a fused loss makes none.
    """

    name: str
    during: Callable[[Case], tuple[str, ...]]
    make: Callable[[BackendUnderTest, Case, str], Any]
    run: Callable[[Any, Case], object]
    head: bool = True


def _advance(model: Any, case: Case) -> None:
    decoder = model.decoder(case.B, case.T)
    for begin, end in _reads(case):
        decoder.advance(case.tokens[:, begin:end])


def _reads(case: Case) -> list[tuple[int, int]]:
    return list(pairwise((0, *cut(case), case.T)))


def _named_reads(case: Case) -> tuple[str, ...]:
    reads = _reads(case)
    return tuple(
        f"read {n} of {len(reads)}, from token {begin}" for n, (begin, _) in enumerate(reads, 1)
    )


def _update(holder: Any, case: Case) -> object:
    """The oracle has no gradients, but the same masks."""
    if hasattr(holder, "grads"):
        return holder.grads(case.batch)
    return holder.loss(case.batch, dropout=case.dropout)


WHOLE = Way(
    "forward",
    lambda case: ("",),
    lambda side, case, precision: side.model(case, precision),
    lambda model, case: model.logits(case.tokens, case.segments),
)
CACHED = Way("cached", _named_reads, WHOLE.make, _advance)
DROPPED = Way(
    "with dropout",
    lambda case: tuple(f"micro-batch {a}" for a in range(case.A)),
    lambda side, case, precision: (side.learner if side.trains else side.model)(case, precision),
    _update,
    head=False,
)


def trace(
    side: BackendUnderTest, case: Case, precision: str = "float64", way: Way = WHOLE
) -> list[Record]:
    """The records of the way's passes; but for dropout's, of the case's first micro-batch.

    Raises Unsupported for a backend that is not laid out as the columns are.
    """
    if lacks := _lacks(side.name):
        raise Unsupported(f"bisect reads models from inside: {lacks}; see specs/backend.md")
    with ExitStack() as stack:
        inside = Inside(side.name, stack)
        side.forget()
        tape = _Tape(way.during(case))
        _tap_tables(inside, tape)
        _tap_modules(inside, tape)
        _tap_dropout(inside, tape)
        model = way.make(side, case, precision)
        module = _transformer(side.name, model)
        tape.paths = {id(node): path for path, node in _walk(side.name, module)}
        tape.passes = 0
        way.run(model, case)
    side.forget()
    return [_last_token(r) if r.path == "lm_head" else r for r in tape.records if _kept(r, way)]


def _kept(record: Record, way: Way) -> bool:
    return way.head or record.path != "lm_head"


def _last_token(record: Record) -> Record:
    """Logits of the last token: of a read, some make no others."""
    whole = record.during == "" or record.value.ndim == 2
    return record if whole else replace(record, value=record.value[:, -1])


def _lacks(name: str) -> str:
    """What `hermes_<name>` lacks to be read from inside; '' if nothing."""
    package = f"hermes_{name}"
    if find_spec(package) is None or find_spec(f"{package}.model") is None:
        return f"there is no {package}.model"
    model = import_module(f"{package}.model")
    if missing := [cls for cls in (*TAPPED, "Transformer") if not hasattr(model, cls)]:
        return f"{package}.model has no {', '.join(missing)}"
    if not _tables(name):
        return f"no {' or '.join(TABLES)} of {package}.runtime has {', '.join(FUNCTIONS)}"
    return ""


def _tables(name: str) -> list[tuple[Any, str]]:
    """Each place of the functions that the model calls: a module, and the name of a table in it.

    '' stands for the module itself.
    """
    package = f"hermes_{name}"
    if find_spec(f"{package}.runtime") is not None:
        runtime = import_module(f"{package}.runtime")
        found = [(runtime, table) for table in TABLES if _full(getattr(runtime, table, None))]
        if found:
            return found
    if find_spec(f"{package}.ops") is not None:
        ops = import_module(f"{package}.ops")
        return [(ops, "")] if _full(ops) else []
    return []


def _full(table: Any) -> bool:
    return all(hasattr(table, function) for function in FUNCTIONS)


def _transformer(name: str, model: Any) -> Any:
    """The Transformer that a model, or its runtime, holds. Raises Unsupported."""
    cls = import_module(f"hermes_{name}.model").Transformer
    for holder in (model, getattr(model, "runtime", None)):
        for value in getattr(holder, "__dict__", {}).values():
            if isinstance(value, cls):
                return value
    raise Unsupported(
        f"bisect reads models from inside: neither what hermes_{name} builds nor its runtime holds "
        "a Transformer; see specs/backend.md"
    )


def _read(x: Any) -> np.ndarray:
    """Any framework's tensor as float64; NumPy has no bfloat16 of torch's or MLX's."""
    framework = type(x).__module__.split(".")[0]
    if framework == "torch":
        return x.detach().double().cpu().numpy().copy()  # a cache's tensors are written again
    if framework == "mlx":
        mx = import_module("mlx.core")
        x = x if x.dtype == mx.float64 else x.astype(mx.float32)
    return np.array(x).astype(np.float64)


def _tap_modules(inside: Inside, tape: _Tape) -> None:
    def tapped(original):
        def call(self, *given):
            path = tape.paths.get(id(self), "")
            tape.inside.append(path)
            tape.passes += path == "model"
            try:
                y = original(self, *given)
                tape.keep("", y)
            finally:
                tape.inside.pop()
            return y

        return call

    for name in TAPPED:
        cls = getattr(inside.module("model"), name)
        # torch's modules are called through forward, everybody else's directly.
        inside.wrap(cls, "forward" if hasattr(cls, "forward") else "__call__", tapped)


def _tap_dropout(inside: Inside, tape: _Tape) -> None:
    if find_spec(f"hermes_{inside.name}.context") is None:
        return

    def make(original):
        def drop(self, x, rate, site):
            y = original(self, x, rate, site)
            if y is not x:
                tape.keep(f"after dropout at site {site}", y)
            return y

        return drop

    inside.method("context", "Context", "dropout", make)


def _tap_tables(inside: Inside, tape: _Tape) -> None:
    def rotate(original):
        def call(x, cos, sin):
            y = original(x, cos, sin)
            tape.keep(f"{'qk'[tape.turned % 2]} after rope", y)
            tape.turned += 1
            return y

        return call

    def attention(original):
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

    changes = {"rotate": rotate, "attention": attention, "activations": activations}
    for module, table in _tables(inside.name):
        if not table:
            for name, make in changes.items():
                inside.wrap(module, name, make)
            continue
        found = getattr(module, table)
        made = {name: make(getattr(found, name)) for name, make in changes.items()}
        inside.replace(module, table, replace(found, **made))


def _walk(name: str, module: Any) -> Iterator[tuple[str, Any]]:
    """(path, module) of every module."""
    if hasattr(module, "named_modules"):
        yield from module.named_modules()
        return
    todo, met = [("", module)], set()
    while todo:
        path, node = todo.pop()
        if id(node) in met:
            continue
        met.add(id(node))
        yield path, node
        for key, value in vars(node).items():
            inner = f"{path}.{key}" if path else key
            if isinstance(value, list | tuple):
                todo += [(f"{inner}.{i}", item) for i, item in enumerate(value) if _own(name, item)]
            elif _own(name, value):
                todo.append((inner, value))


def _own(name: str, value: Any) -> bool:
    package = type(value).__module__.split(".")[0]
    return package == f"hermes_{name}" and callable(value) and hasattr(value, "__dict__")
