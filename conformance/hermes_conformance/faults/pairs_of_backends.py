"""Faults for the laws that compare two backends that train."""

from dataclasses import replace

import numpy as np

from hermes_conformance.faults import backward, kernels, optimizer, state
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Patcher


def _scale_frozen_grads(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, batch):
            loss, grads = original(self, batch)
            factor = 1 + 1e-9 * bool(self._recipe.freeze_layers)
            return loss, {name: factor * np.asarray(grads[name]) for name in grads}

        return faulty

    patcher.wrap_method("learner", "Learner", "grads", wrap)


def _make_fault(name: str, law: str, case: str, plant: Plant) -> Fault:
    return Fault(name, "peers", law, case, plant)


GRADIENTS, RUN = "L1/gradients", "L4/trajectory"

FAULTS = (
    _make_fault(
        "a frozen model's gradients are off by 1e-9",
        "L1/freezing",
        "default/hot",
        _scale_frozen_grads,
    ),
    _make_fault(
        "the last micro-batch alone, beside a peer", GRADIENTS, "default/hot", backward.LAST
    ),
    _make_fault(
        "a residual off by 1e-6, beside a peer", GRADIENTS, "default/hot", backward.RESIDUAL
    ),
    _make_fault("decay of 0.101, beside a peer", RUN, "train.gpt2/fresh", optimizer.DECAY),
    _make_fault("clipping without 1e-6, beside a peer", RUN, "train.gpt2/fresh", optimizer.CLIP),
    _make_fault("eps of 1e-6, beside a peer", RUN, "train.gpt2/fresh", optimizer.EPS),
    _make_fault(
        "moments swapped, handed over",
        "L5/handover",
        "move.tied/fresh",
        state.change_state(lambda s: replace(s, exp_avg=s.exp_avg_sq, exp_avg_sq=s.exp_avg)),
    ),
    _make_fault(
        "the step begins anew, handed over",
        "L5/handover",
        "move.tied/fresh",
        state.change_initial_state(lambda s: replace(s, step=0)),
    ),
    _make_fault(
        "moments forgotten, handed over in float32",
        "L5/handover-float32",
        "move.dropout/fresh",
        state.change_initial_state(lambda s: replace(s, exp_avg={}, exp_avg_sq={})),
    ),
    _make_fault("one backend is sloppy", "L2/peers", "default/hot", kernels.FLOAT16),
)
