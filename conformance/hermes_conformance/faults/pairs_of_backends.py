"""Faults for the laws in which two backends that train are compared with each other."""

from dataclasses import replace

import numpy as np

from hermes_conformance.faults import backward, kernels, optimizer
from hermes_conformance.faults.fault import Fault, Inside


def _frozen_grads(inside: Inside) -> None:
    def make(original):
        def wrong(self, batch):
            loss, grads = original(self, batch)
            factor = 1 + 1e-9 * bool(self._recipe.freeze_layers)
            return loss, {name: factor * np.asarray(grads[name]) for name in grads}

        return wrong

    inside.method("learner", "Learner", "grads", make)


def _fault(name, law, case, plant):
    return Fault(name, "peers", law, case, plant)


GRADIENTS, RUN = "L1/gradients", "L4/trajectory"

FAULTS = (
    _fault(
        "a frozen model's gradients are off by 1e-9", "L1/freezing", "default/hot", _frozen_grads
    ),
    _fault("the last micro-batch alone, beside a peer", GRADIENTS, "default/hot", backward.LAST),
    _fault("a residual off by 1e-6, beside a peer", GRADIENTS, "default/hot", backward.RESIDUAL),
    _fault("decay of 0.101, beside a peer", RUN, "train.gpt2/fresh", optimizer.DECAY),
    _fault("clipping without 1e-6, beside a peer", RUN, "train.gpt2/fresh", optimizer.CLIP),
    _fault("eps of 1e-6, beside a peer", RUN, "train.gpt2/fresh", optimizer.EPS),
    _fault(
        "moments swapped, handed over",
        "L5/handover",
        "move.tied/fresh",
        optimizer.state(lambda s: replace(s, exp_avg=s.exp_avg_sq, exp_avg_sq=s.exp_avg)),
    ),
    _fault(
        "the step begins anew, handed over",
        "L5/handover",
        "move.tied/fresh",
        optimizer.taken(lambda s: replace(s, step=0)),
    ),
    _fault(
        "moments forgotten, handed over in float32",
        "L5/handover-float32",
        "move.dropout/fresh",
        optimizer.taken(lambda s: replace(s, exp_avg={}, exp_avg_sq={})),
    ),
    _fault("one backend is sloppy", "L2/peers", "default/hot", kernels.FLOAT16),
)
