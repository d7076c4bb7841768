"""Faults of the state that a learner is made from and hands over."""

from dataclasses import replace

import ml_dtypes
import numpy as np

from hermes.interface import Tensors, TrainState
from hermes.numerics.frozen import FrozenWeights
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher


def change_state(change: Function) -> Plant:
    """A learner hands over change(state)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "learner",
            "Learner",
            "state",
            lambda original: lambda self: change(original(self)),
        )

    return plant


def change_initial_state(change: Function) -> Plant:
    """A learner is made from change(state)."""

    def plant(patcher: Patcher) -> None:
        def wrap(original):
            return lambda self, spec, state, *rest, **kwargs: original(
                self, spec, change(state), *rest, **kwargs
            )

        patcher.wrap_method("backend", "Backend", "learner", wrap)

    return plant


def _round_params(state: TrainState) -> TrainState:
    def short(tensors):
        return {n: np.array(t).astype(np.float16).astype(t.dtype) for n, t in tensors.items()}

    return replace(state, params=short(state.params))


def _narrow(tensors: Tensors) -> dict[str, np.ndarray]:
    """Through float32, in the type they had."""
    arrays = {name: np.array(tensors[name]) for name in tensors}
    return {name: value.astype(np.float32).astype(value.dtype) for name, value in arrays.items()}


def _load_by_float32(patcher: Patcher) -> None:
    runtime = patcher.load_module("runtime").Runtime
    name = "load_parameter" if hasattr(runtime, "load_parameter") else "_load_parameter"

    def wrap(original):
        return lambda self, array, *args, **kwargs: original(
            self, np.asarray(array).astype(np.float32), *args, **kwargs
        )

    patcher.wrap(runtime, name, wrap)


def _hand_over_rounded(patcher: Patcher) -> None:
    def wrap(original):
        return lambda self, name: original(self, name).astype(ml_dtypes.bfloat16).astype(np.float32)

    patcher.wrap(FrozenWeights, "read", wrap)


def _cut_frozen(patcher: Patcher) -> None:
    runtime = patcher.load_module("runtime").Runtime
    name = "load_parameter" if hasattr(runtime, "load_parameter") else "_load_parameter"

    def wrap(original):
        def load(self, array, *args, short=False, **kwargs):
            if short:  # towards zero
                cut = np.array(array, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
                array = cut.view(np.float32)
            return original(self, array, *args, short=short, **kwargs)

        return load

    patcher.wrap(runtime, name, wrap)


def _make_fault(name: str, law: str, case: str, plant: Plant) -> Fault:
    return Fault(name, "state", law, case, plant)


FAULTS = (
    _make_fault(
        "a state has its moments swapped",
        "L5/resume",
        "move.dropout/fresh",
        change_state(lambda s: replace(s, exp_avg=s.exp_avg_sq, exp_avg_sq=s.exp_avg)),
    ),
    _make_fault(
        "a state forgets its step",
        "L0/resume",
        "default/hot",
        change_state(lambda s: replace(s, step=s.step - 1)),
    ),
    _make_fault(
        "a learner forgets its moments",
        "L5/resume",
        "move.dropout/fresh",
        change_initial_state(lambda s: replace(s, exp_avg={}, exp_avg_sq={})),
    ),
    _make_fault(
        "bias correction begins anew after a resume",
        "L5/resume",
        "move.tied/fresh",
        change_initial_state(lambda s: replace(s, step=0)),
    ),
    _make_fault(
        "float64 weights are loaded by way of float32",
        "L1/logits",
        "wide.default/hot",
        _load_by_float32,
    ),
    _make_fault(
        "float64 moments begin as float32",
        "L0/wide-weights",
        "wide.default/hot",
        change_initial_state(lambda s: replace(s, exp_avg_sq=_narrow(s.exp_avg_sq))),
    ),
    _make_fault(
        "a float64 state is handed over as float32",
        "L5/resume-float64",
        "move.tied/fresh",
        change_state(lambda s: replace(s, params=_narrow(s.params))),
    ),
    _make_fault(
        "weights pass through float16",
        "L0/weights",
        "default/hot",
        change_state(_round_params),
    ),
    _make_fault(
        "frozen weights are handed over as they are held",
        "L0/frozen-short",
        "default/hot",
        _hand_over_rounded,
    ),
    _make_fault(
        "frozen weights are cut to bfloat16, not rounded",
        "L0/frozen-short",
        "default/hot",
        _cut_frozen,
    ),
)
