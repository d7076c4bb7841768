"""Faults that only compiled evaluations have."""

import numpy as np

from hermes.interface import IGNORE
from hermes.numerics.row_padding import RowPadding
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def _change_compute(change: Function, name: str = "compute_loss") -> Plant:
    """What is compiled is change(original, evaluation, *the arrays of a micro-batch).

    name: the method; 'compute_rows' of pairs.
    """
    return lambda patcher: patcher.wrap_method(
        "compiled_evaluation",
        "CompiledEvaluation",
        name,
        lambda original: lambda self, *arrays: change(original, self, *arrays),
    )


def _keep_weights(patcher: Patcher, name: str = "compute_loss") -> None:
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

    _change_compute(compute, name)(patcher)


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


def _score_prompt(original, self, tokens, targets):
    return original(self, tokens, np.where(targets == IGNORE, 0, targets))


def _exchange_rows(patcher: Patcher) -> None:
    """Chosen and rejected rows change places."""

    def compute(original, self, tokens, targets):
        rows = original(self, tokens, targets)
        return patcher.gather(rows, np.roll(np.arange(len(tokens)), len(tokens) // 2))

    _change_compute(compute, "compute_rows")(patcher)


def _round_reference(patcher: Patcher) -> None:
    """A reference errs by its last bit, where its policy does not."""

    def wrap(original):
        return lambda self, *arrays: np.nextafter(original(self, *arrays), np.float32(0))

    patcher.wrap_method("inference", "Model", "row_logprobs", wrap)


def _make_fault(name: str, plant: Plant) -> Fault:
    law, case = "L4/compiled-evaluation", "compiled.packed/hot"
    return Fault(f"a compiled evaluation {name}", "compiled", law, case, plant)


def _make_pair_fault(name: str, plant: Plant) -> Fault:
    law, case = "L4/compiled-evaluation-of-pairs", "evaluated pairs/hot"
    return Fault(f"a compiled evaluation of pairs {name}", "compiled", law, case, plant)


FAULTS = (
    _make_fault("has the weights of the first one", _keep_weights),
    _make_fault("counts rows that fill up its graph", _count_added_rows),
    _make_fault("leaves out rows that its graph has no room for", _leave_out_rows),
    _make_fault("loses the documents", _change_compute(_drop_documents)),
    _make_fault("loses the weights of targets", _change_compute(_drop_weights)),
    _make_pair_fault(
        "has the weights of the first one", lambda patcher: _keep_weights(patcher, "compute_rows")
    ),
    _make_pair_fault("scores the prompt", _change_compute(_score_prompt, "compute_rows")),
    _make_pair_fault("exchanges chosen and rejected rows", _exchange_rows),
    _make_pair_fault("differs from its reference by a last bit", _round_reference),
)
