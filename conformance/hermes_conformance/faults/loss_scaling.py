"""Faults of float16's loss scaling."""

from dataclasses import replace

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import FAST_TABLES, Function, Patcher

SCALE, EAGER, LOW = "L4/loss-scale", "scaled.eager/fresh", "scaled.minimum/fresh"
GRADIENTS, SMALL, RESUME = "L3/float16-gradients", "L3/float16-small", "L5/resume-float16"


def _change_rule(**changes: float) -> Plant:
    """Compute the next scale with other numbers in the rule."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("loss_scale").update_loss_scale,
            lambda original: (
                lambda scale, good, finite, rule: original(
                    scale, good, finite, replace(rule, **changes)
                )
            ),
        )

    return plant


def _change_update(change: Function) -> Plant:
    """Compute the next scale by change(original, scale, good steps, finite, rule)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("loss_scale").update_loss_scale,
            lambda original: lambda *arguments: change(original, *arguments),
        )

    return plant


def _keep_count(original, scale, good_steps, finite, rule):
    new_scale, _ = original(scale, good_steps, finite, rule)
    return new_scale, good_steps + 1


def _grow_late(original, scale, good_steps, finite, rule):
    return original(scale, good_steps, finite, replace(rule, interval=rule.interval + 1))


def _leave_scaled(patcher: Patcher) -> None:
    """Gradients stay multiplied by the loss scale."""
    if patcher.name == "torch":
        patcher.wrap_method(
            "loss_scale", "LossScaler", "unscale", lambda original: lambda self, grads: None
        )
        return

    def wrap(original):
        def accumulate(self, batch):
            loss, grads, rows = original(self, batch)
            if self._scaling is not None:
                grads = {name: g * self._scaling[0] for name, g in grads.items()}
            return loss, grads, rows

        return accumulate

    patcher.wrap_method("learner", "Learner", "_accumulate", wrap)


def _scale_late(patcher: Patcher) -> None:
    """The loss's own gradient is rounded to float16 before it is multiplied by the scale."""
    patcher.wrap_table("next_token", lambda o: lambda *x: o(*x[:-1]), FAST_TABLES)


def _forget_scale(patcher: Patcher) -> None:
    """A learner's state does not have its loss scale."""
    patcher.wrap_method(
        "learner",
        "Learner",
        "state",
        lambda original: lambda self: replace(original(self), loss_scale=None),
    )


def _start_anew(patcher: Patcher) -> None:
    """A learner begins with the first scale, whatever its state has."""
    patcher.wrap_method(
        "learner",
        "Learner",
        "__init__",
        lambda original: (
            lambda self, runtime, state, *more: original(
                self, runtime, replace(state, loss_scale=None), *more
            )
        ),
    )


def _make_fault(name: str, law: str, case: str, plant: Plant) -> Fault:
    return Fault(name, "optimizer", law, case, plant)


FAULTS = (
    _make_fault("an overflow halves the scale again", SCALE, EAGER, _change_rule(backoff=0.125)),
    _make_fault("the scale grows by 2, not as it is set", SCALE, EAGER, _change_rule(growth=2.0)),
    _make_fault("the scale grows a step late", SCALE, EAGER, _change_update(_grow_late)),
    _make_fault("the scale falls below its minimum", SCALE, LOW, _change_rule(minimum=1.0)),
    _make_fault("an overflow does not begin the count anew", SCALE, EAGER, _change_update(
        _keep_count
    )),
    _make_fault("gradients stay multiplied by the loss scale", GRADIENTS, "default/fresh",
                _leave_scaled),
    _make_fault("the loss is scaled after its gradient is rounded", SMALL, "default/fresh",
                _scale_late),
    _make_fault("a state has no loss scale", RESUME, "move.dropout/fresh", _forget_scale),
    _make_fault("another backend begins with the first scale", "L5/handover-float16",
                "move.dropout/fresh", _start_anew),
    _make_fault("a resumed run begins with the first scale", RESUME, "move.dropout/fresh",
                _start_anew),
)  # fmt: skip
