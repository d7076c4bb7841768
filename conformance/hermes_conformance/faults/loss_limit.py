"""Faults of the limit of a step's loss."""

from typing import Any

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

LAW, CASE, PART = "L4/loss-limit", "train.hot/hot", "optimizer"


def _change_decision(change: Function) -> Plant:
    """Whether a step is applied is change(original, finite, loss, limit)."""
    return lambda patcher: patcher.wrap_function(
        patcher.load_module("optim").is_applied,
        lambda original: lambda *args: change(original, *args),
    )


def _forget_limit(original, finite, loss, limit):
    return original(finite, loss, None)


def _leave_out_limit(original, finite, loss, limit):
    # A loss that is the limit is left out, too.
    return finite if limit is None else finite & (loss < limit)


def _report_nothing(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, batch, lr):
            report = original(self, batch, lr)
            object.__setattr__(report, "applied", None)
            return report

        return faulty

    patcher.wrap_method("learner", "Learner", "step", wrap)


def _count_as_overflow(patcher: Patcher) -> None:
    """The loss scale falls after a loss above its limit, as after an overflow."""
    decided: list[Any] = []

    def remember(original):
        def decide(finite, loss, limit):
            decided[:] = [original(finite, loss, limit)]
            return decided[0]

        return decide

    patcher.wrap_function(patcher.load_module("optim").is_applied, remember)
    patcher.wrap_function(
        patcher.load_module("loss_scale").update_loss_scale,
        lambda original: lambda scale, good, finite, rule: original(scale, good, decided[0], rule),
    )


FAULTS = (
    Fault("a loss above its limit is trained on", PART, LAW, CASE, _change_decision(_forget_limit)),
    Fault("a loss at its limit is left out", PART, LAW, CASE, _change_decision(_leave_out_limit)),
    Fault("a step does not say whether it was applied", PART, LAW, CASE, _report_nothing),
    Fault(
        "a loss above its limit lowers the loss scale",
        PART,
        "L4/loss-limit-float16",
        "train.dropout/fresh",
        _count_as_overflow,
    ),
)
