"""L4 of activation checkpointing, of whole blocks and of a part of what they compute."""

from collections.abc import Iterator
from typing import Any

from hermes_conformance.cases.case import Case
from hermes_conformance.laws.gradients import has_gradient
from hermes_conformance.laws.training import compare_trajectories
from hermes_conformance.laws.training_cases import SHORT_STEPS
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_relative
from hermes_conformance.measure.law import Check, Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle.trajectory import train

# The law's name and what it speaks of, by the option that asks for it.
KINDS = {
    "grad_checkpoint": ("checkpointing", "activation checkpointing"),
    "selective_checkpoint": ("selective-checkpointing", "selective checkpointing"),
}


def _make_run_check(option: str) -> Check:
    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        """A run with checkpointing has the same numbers up to rounding."""
        options: dict[str, Any] = {option: True}
        got = train(backends.subject, case, SHORT_STEPS, **options)
        expected = train(backends.subject, case, SHORT_STEPS)
        yield from compare_trajectories(case, got, expected)

    return check


def _make_gradients_check(option: str) -> Check:
    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        """The same of the gradients of one step in float32."""
        got_loss, got = backends.subject.compute_grads(case, "float32", **{option: True})
        loss, expected = backends.subject.compute_grads(case, "float32")
        yield compare_relative("loss", got_loss, loss, tolerance.LOSS_32, max(1.0, abs(loss)))
        for name in expected:
            if has_gradient(case, name):
                what = f"gradient of {name}"
                yield compare_relative(what, got[name], expected[name], tolerance.GRADIENT_32)

    return check


def _make_laws(option: str) -> tuple[Law, ...]:
    name, subject = KINDS[option]
    return (
        Law(
            "L4",
            name,
            f"{subject} changes nothing",
            tolerance.TRAIN_64,
            _make_run_check(option),
            match_names("train.dropout", "train.frozen", "train.lora"),
            "learner",
        ),
        Law(
            "L4",
            f"{name}-float32",
            f"{subject} changes no float32 gradient",
            tolerance.GRADIENT_32,
            _make_gradients_check(option),
            match_names("train.dropout"),
            "learner",
            "float32",
        ),
    )


LAWS = tuple(law for option in KINDS for law in _make_laws(option))
