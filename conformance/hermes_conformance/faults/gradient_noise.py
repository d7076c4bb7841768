"""Faults of the noise of gradients that a run measures."""

import numpy as np

from hermes.numerics import gradient_noise
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

LAW, RANKS, CASE = "L1/gradient-noise", "L1/rank-noise", "default/hot"
PART = "gradient noise"


def _change_norm(change: Function) -> Plant:
    """The first micro-batch's norm is change(learner, norm)."""

    def wrap(original):
        return lambda self, *args: change(self, original(self, *args))

    return lambda patcher: patcher.wrap_method("learner", "Learner", "_measure_first", wrap)


def _keep_loss_scale(patcher: Patcher) -> None:
    """The norm keeps the loss scale."""

    def change(self, norm):
        return norm * (self._scaler.scale if patcher.name == "torch" else self._scaling[0])

    _change_norm(change)(patcher)


def _report_nothing(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, batch, lr):
            report = original(self, batch, lr)
            object.__setattr__(report, "first_norm", None)
            return report

        return faulty

    patcher.wrap_method("learner", "Learner", "step", wrap)


def _report_whole_norm(patcher: Patcher) -> None:
    """The norm of the whole step's gradient, in place of the first micro-batch's."""

    def wrap(original):
        def faulty(self, batch, lr):
            report = original(self, batch, lr)
            object.__setattr__(report, "first_norm", report.grad_norm)
            return report

        return faulty

    patcher.wrap_method("learner", "Learner", "step", wrap)


def _change_estimate(change: Function) -> Plant:
    """Estimate by change(original, small, big, 1/b, 1/B)."""
    return lambda patcher: patcher.wrap_function(
        gradient_noise.estimate_noise, lambda original: lambda *args: change(original, *args)
    )


def _forget_inverse_means(original, small, big, small_inverse, big_inverse):
    # A batch of several ranks' sizes added up.
    return original(small, big, small_inverse / 2, big_inverse)


def _count_weights_alike(patcher: Patcher) -> None:
    """The weights of terms are left out of the size of a batch."""
    patcher.wrap_function(
        gradient_noise._list_weights,
        lambda original: lambda batch, a: np.ones_like(original(batch, a)),
    )


FAULTS = (
    Fault("a step reports no norm of its first part", PART, LAW, CASE, _report_nothing),
    Fault("the first part's norm is the whole step's", PART, LAW, CASE, _report_whole_norm),
    Fault(
        "the first part's norm is off by 1e-8",
        PART,
        LAW,
        CASE,
        _change_norm(lambda self, norm: norm * (1 + 1e-8)),
    ),
    Fault(
        "the first part's norm is squared in float32",
        PART,
        "L2/gradient-noise",
        CASE,
        _change_norm(lambda self, norm: norm * norm),
    ),
    Fault(
        "the first part's norm keeps the loss scale",
        PART,
        "L3/gradient-noise-float16",
        CASE,
        _keep_loss_scale,
    ),
    Fault(
        "small and large batch change places",
        PART,
        LAW,
        CASE,
        _change_estimate(lambda o, small, big, a, b: o(big, small, a, b)),
    ),
    Fault(
        "the noise is that of the whole batch",
        PART,
        LAW,
        CASE,
        _change_estimate(lambda o, small, big, a, b: (o(small, big, a, b)[0], (small - big) / a)),
    ),
    Fault(
        "sizes of ranks' small batches are added up",
        PART,
        RANKS,
        CASE,
        _change_estimate(_forget_inverse_means),
    ),
    Fault("weighted terms count alike", PART, LAW, "weighted.targets/hot", _count_weights_alike),
)
