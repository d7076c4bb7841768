"""Record the intermediate tensors of forward passes from outside: model.py stays as it is.

The modules of our three backends have the same classes and names, so that their records can be
compared one by one. So can those of any backend with the same layout: the classes in
`hermes_NAME.model`, and the functions they call in the tables of `hermes_NAME.runtime` (or in
`hermes_NAME.ops` if there is one version of each).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from hermes.errors import Unsupported
from hermes_conformance.bisect.computations import FORWARD, Computation
from hermes_conformance.cases.case import Case
from hermes_conformance.faults.patcher import TABLES, Function, Patcher
from hermes_conformance.measure.subject import BackendUnderTest

MODULES = (
    "Linear",
    "Embedding",
    "Norm",
    "Attention",
    "FeedForward",
    "Block",
    "Stack",
    "Head",
)
OPTIONAL_MODULES = ("HeadNorm",)  # recorded where a backend has them
FUNCTIONS = ("rotate", "attention", "activations")
# Recorded where a table has them: rotate in fewer operations, and the product of several modules.
OPTIONAL_FUNCTIONS = ("rotate_pairs", "project")


@dataclass(frozen=True)
class Activation:
    """An intermediate tensor in float64.

    path: of the module that made it. what: what it is in that module, '' for its output. pass_name:
    which of several passes made it.
    """

    path: str
    what: str
    value: np.ndarray
    pass_name: str = ""

    @property
    def name(self) -> str:
        """`read 3 of 4: layers.0.self_attn: q after rope`."""
        parts = self.pass_name, self.path.removeprefix("model."), self.what
        return ": ".join(filter(None, parts))


class _Recorder:
    """The activations so far, and the module and pass that are being computed."""

    def __init__(self, pass_names: tuple[str, ...]) -> None:
        self.activations: list[Activation] = []
        self.paths: dict[int, str] = {}  # of modules, by their id()
        self.open_modules: list[str] = []
        self.rotations, self.passes, self.pass_names = 0, 0, pass_names

    def record(self, what: str, value: Any, path: str | None = None) -> None:
        """path: of the module that made the value, if not the one that is being computed."""
        if path is None:
            path = self.open_modules[-1] if self.open_modules else "model"
        pass_name = self.pass_names[max(self.passes - 1, 0)]
        self.activations.append(Activation(path, what, _to_numpy(value), pass_name))


def trace(
    subject: BackendUnderTest,
    case: Case,
    precision: str = "float64",
    computation: Computation = FORWARD,
) -> list[Activation]:
    """The activations of a computation, on the case's first micro-batch unless it takes a step.

    Raises Unsupported for a backend whose layout is not that of ours.
    """
    if missing := _find_missing_part(subject.name):
        raise Unsupported(f"bisect reads models from inside: {missing}; see specs/backend.md")
    with ExitStack() as stack:
        patcher = Patcher(subject.name, stack)
        subject.forget()
        recorder = _Recorder(computation.name_passes(case))
        _tap_tables(patcher, recorder)
        _tap_modules(patcher, recorder)
        _tap_dropout(patcher, recorder)
        model = computation.make(subject, case, precision)
        transformer = _find_transformer(subject.name, model)
        recorder.paths = {id(node): path for path, node in _walk(subject.name, transformer)}
        recorder.passes = 0  # making a learner may have run the model
        computation.run(model, case)
    subject.forget()
    return [
        _select_last_token(activation) if activation.path == "lm_head" else activation
        for activation in recorder.activations
        if computation.has_logits or activation.path != "lm_head"
    ]


def _select_last_token(logits: Activation) -> Activation:
    """Of a decoder's read, the last token's logits: some backends make no others."""
    whole = logits.pass_name == "" or logits.value.ndim == 2
    return logits if whole else replace(logits, value=logits.value[:, -1])


def _find_missing_part(name: str) -> str:
    """What `hermes_<name>` would need to be read from inside; '' if it has all."""
    package = f"hermes_{name}"
    if find_spec(package) is None or find_spec(f"{package}.model") is None:
        return f"there is no {package}.model"
    model = import_module(f"{package}.model")
    if missing := [cls for cls in (*MODULES, "Transformer") if not hasattr(model, cls)]:
        return f"{package}.model has no {', '.join(missing)}"
    if not _find_tables(name):
        return f"no {' or '.join(TABLES)} of {package}.runtime has {', '.join(FUNCTIONS)}"
    return ""


def _find_tables(name: str) -> list[tuple[Any, str]]:
    """(module, name of a table in it) of the functions that the model calls.

    '' instead of a name if the functions are the module's own.
    """
    package = f"hermes_{name}"
    if find_spec(f"{package}.runtime") is not None:
        runtime = import_module(f"{package}.runtime")
        names = [table for table in TABLES if _has_functions(getattr(runtime, table, None))]
        if names:
            return [(runtime, table) for table in names]
    if find_spec(f"{package}.ops") is not None:
        ops = import_module(f"{package}.ops")
        return [(ops, "")] if _has_functions(ops) else []
    return []


def _has_functions(table: Any) -> bool:
    return all(hasattr(table, function) for function in FUNCTIONS)


def _find_transformer(name: str, model: Any) -> Any:
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


def _to_numpy(x: Any) -> np.ndarray:
    """A tensor of any framework as float64; NumPy cannot take bfloat16 from torch or MLX."""
    framework = type(x).__module__.split(".")[0]
    if framework == "torch":
        array: np.ndarray = x.detach().double().cpu().numpy()
        return array.copy()  # a KV cache writes to its tensors again
    if framework == "mlx":
        mx = import_module("mlx.core")
        x = x if x.dtype == mx.float64 else x.astype(mx.float32)
    return np.array(x).astype(np.float64)


def _tap_modules(patcher: Patcher, recorder: _Recorder) -> None:
    """Record every module's output."""

    def make(original: Function) -> Function:
        def call(self: Any, *args: Any) -> Any:
            path = recorder.paths.get(id(self), "")
            recorder.open_modules.append(path)
            recorder.passes += path == "model"
            try:
                y = original(self, *args)
                recorder.record("", y)
            finally:
                recorder.open_modules.pop()
            return y

        return call

    model = patcher.load_module("model")
    for name in (*MODULES, *OPTIONAL_MODULES):
        if name in MODULES or hasattr(model, name):
            patcher.wrap_forward(name, make)


def _tap_dropout(patcher: Patcher, recorder: _Recorder) -> None:
    """Record what dropout gives, where it drops anything."""
    if find_spec(f"hermes_{patcher.name}.context") is None:
        return

    def make(original: Function) -> Function:
        def dropout(self: Any, x: Any, rate: Any, site: Any) -> Any:
            y = original(self, x, rate, site)
            if y is not x:
                recorder.record(f"after dropout at site {site}", y)
            return y

        return dropout

    patcher.wrap_method("context", "Context", "dropout", make)


def _tap_tables(patcher: Patcher, recorder: _Recorder) -> None:
    """Record what goes into and comes out of the functions that the model calls."""

    def rotate(original: Function) -> Function:
        def call(x: Any, cos: Any, sin: Any) -> Any:
            y = original(x, cos, sin)
            # The queries are rotated first, then the keys.
            recorder.record(f"{'qk'[recorder.rotations % 2]} after rope", y)
            recorder.rotations += 1
            return y

        return call

    def attention(original: Function) -> Function:
        def call(q: Any, k: Any, v: Any, spec: Any, *rest: Any) -> Any:
            # A cache may keep no more than the window; what the first query attends to is compared.
            S, T = k.shape[2], q.shape[2]
            first = max(S - (spec.window_size or S) - T + 1, 0)
            for what, x in (("q", q), ("k", k[:, :, first:]), ("v", v[:, :, first:])):
                recorder.record(f"{what} read by attention", x)
            y = original(q, k, v, spec, *rest)
            recorder.record("values mixed", y)
            return y

        return call

    def activation(original: Function) -> Function:
        def call(x: Any) -> Any:
            y = original(x)
            recorder.record("after the activation", y)
            return y

        return call

    def project(original: Function) -> Function:
        # The matrices may be joined, or packed as one, and then no module could make its own part.
        def call(x: Any, *linears: Any) -> Any:
            before = len(recorder.activations)
            outputs = original(x, *linears)
            if len(recorder.activations) == before:  # one product: no module was called by itself
                for linear, y in zip(linears, outputs, strict=True):
                    recorder.record("", y, recorder.paths.get(id(linear), ""))
            return outputs

        return call

    def activations(table: dict[str, Function]) -> dict[str, Function]:
        return {name: activation(function) for name, function in table.items()}

    wrappers: dict[str, Callable[[Any], Any]] = {
        "rotate": rotate,
        "rotate_pairs": rotate,
        "project": project,
        "attention": attention,
        "activations": activations,
    }
    for module, name in _find_tables(patcher.name):
        if not name:
            for entry in FUNCTIONS:
                patcher.wrap(module, entry, wrappers[entry])
            continue
        table = getattr(module, name)
        optional = [entry for entry in OPTIONAL_FUNCTIONS if hasattr(table, entry)]
        changed = {
            entry: wrappers[entry](getattr(table, entry)) for entry in (*FUNCTIONS, *optional)
        }
        patcher.replace(module, name, replace(table, **changed))


def _walk(name: str, module: Any) -> Iterator[tuple[str, Any]]:
    """(path, module) of every module, by torch's own walk or through the modules' attributes."""
    if hasattr(module, "named_modules"):
        yield from module.named_modules()
        return
    todo, seen = [("", module)], set()
    while todo:
        path, node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        for key, value in vars(node).items():
            inner = f"{path}.{key}" if path else key
            if isinstance(value, list | tuple):
                items = ((f"{inner}.{i}", item) for i, item in enumerate(value))
                todo += [(path, item) for path, item in items if _is_module(name, item)]
            elif _is_module(name, value):
                todo.append((inner, value))


def _is_module(name: str, value: Any) -> bool:
    """Whether a value is a module of the backend's own classes."""
    package = type(value).__module__.split(".")[0]
    return package == f"hermes_{name}" and callable(value) and hasattr(value, "__dict__")
