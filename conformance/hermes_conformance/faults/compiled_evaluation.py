"""Faults that only compiled evaluations have."""

from hermes.interface import IGNORE
from hermes.numerics.row_padding import RowPadding
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def _change_compute(change: Function) -> Plant:
    """A compiled loss is change(original, evaluation, *the arrays of a micro-batch)."""
    return lambda patcher: patcher.wrap_method(
        "compiled_evaluation",
        "CompiledEvaluation",
        "compute",
        lambda original: lambda self, *arrays: change(original, self, *arrays),
    )


def _keep_weights(patcher: Patcher) -> None:
    """An evaluation has the weights of the first one."""

    def compute(original, self, *arrays):
        runtime = self._runtime
        if patcher.name == "mlx":
            now = runtime.get_parameters()
            runtime.set_parameters(self.__dict__.setdefault("_first", now))
            loss = original(self, *arrays)
            runtime.set_parameters(now)
            return loss
        now = {name: p.detach().clone() for name, p in runtime.module.named_parameters()}
        _set_weights(runtime.module, self.__dict__.setdefault("_first", now))
        loss = original(self, *arrays)
        _set_weights(runtime.module, now)
        return loss

    _change_compute(compute)(patcher)


def _set_weights(module, tensors):
    for name, p in module.named_parameters():
        p.data.copy_(tensors[name])


def _count_added_rows(patcher: Patcher) -> None:
    """Rows that make a micro-batch as high as its graph take part in the loss."""

    def wrap(original):
        def pad(self, tokens, targets, *more):
            rows = len(tokens)
            tokens, targets, *more = original(self, tokens, targets, *more)
            targets = targets.copy()
            targets[rows:][targets[rows:] == IGNORE] = 0
            return tokens, targets, *more

        return pad

    patcher.wrap(RowPadding, "pad", wrap)


def _leave_out_rows(patcher: Patcher) -> None:
    """A micro-batch is cut to the rows of the smallest one before it."""

    def wrap(original):
        def pad(self, *arrays):
            least = min(len(arrays[0]), self.__dict__.setdefault("_least", len(arrays[0])))
            self._least = least
            return original(self, *(None if x is None else x[:least] for x in arrays))

        return pad

    patcher.wrap(RowPadding, "pad", wrap)


def _drop_documents(original, self, tokens, targets, segments, weights):
    return original(self, tokens, targets, None, weights)


def _drop_weights(original, self, tokens, targets, segments, weights):
    return original(self, tokens, targets, segments, None)


def _make_fault(name: str, plant: Plant) -> Fault:
    law, case = "L4/compiled-evaluation", "compiled.packed/hot"
    return Fault(f"a compiled evaluation {name}", "compiled", law, case, plant)


FAULTS = (
    _make_fault("has the weights of the first one", _keep_weights),
    _make_fault("counts rows that fill up its graph", _count_added_rows),
    _make_fault("leaves out rows that its graph has no room for", _leave_out_rows),
    _make_fault("loses the documents", _change_compute(_drop_documents)),
    _make_fault("loses the weights of targets", _change_compute(_drop_weights)),
)
