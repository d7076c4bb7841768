"""Loss scaling under float16: L3 of the gradients, L4 of the scale, L5 of what moves with a run."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from hermes.interface import LossScale, TrainState
from hermes.recipe import LossScaling
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.cases.specs import make_spec
from hermes_conformance.cases.weights import draw_fresh
from hermes_conformance.laws.training_cases import TRAINING_RECIPE
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_absolute,
    compare_bits,
    compare_relative,
    compare_values,
    rms,
)
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends, make_initial_state
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import copy_state
from hermes_numpy.loss_scale import update_loss_scale

# So large that the first steps overflow, and so quick to grow that later ones do, too.
EAGER = LossScaling(initial=2.0**26, growth=8.0, backoff=0.25, interval=3)
STEPS = 24
SMALL_WEIGHT = np.float32(2.0**-22)


def make_cases() -> tuple[Case, ...]:
    """Runs in float16 whose scale falls and grows, and one whose scale falls to its minimum."""
    low = replace(EAGER, minimum=2.0**24, initial=2.0**27)
    return tuple(
        Case(
            f"scaled.{name}/fresh",
            make_spec(num_layers=1),
            draw_fresh,
            recipe=replace(TRAINING_RECIPE, loss_scaling=rule),
        )
        for name, rule in (("eager", EAGER), ("minimum", low))
    )


def gradients(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Gradients in float16 have the length and direction of the same backend's in float64."""
    # Hot weights without a last norm have gradients that overflow at the usual scale.
    recipe = replace(case.recipe, loss_scaling=LossScaling(initial=1024.0))
    _, got = backends.subject.make_learner(case, "float16", recipe).grads(case.batch)
    _, expected = backends.subject.compute_grads(case)
    yield from _compare_gradients(got, expected)


def small_gradients(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The same where all gradients of the summed loss are below what float16 can hold.

    Every target has the same small weight, which the mean is divided by again.
    """
    weights = np.full(case.batch.targets.shape, SMALL_WEIGHT)
    batch = replace(case.batch, weights=weights)
    _, got = backends.subject.make_learner(case, "float16").grads(batch)
    _, expected = backends.subject.compute_grads(case)
    yield from _compare_gradients(got, expected)


def _compare_gradients(got: Weights, expected: Weights) -> Iterator[Measurement]:
    names = list(expected)
    one, other = (
        np.concatenate([np.ravel(np.asarray(grads[name], np.float64)) for name in names])
        for grads in (got, expected)
    )
    lengths = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    yield compare_relative("norm of all gradients", *lengths, tolerance.NORM_F16)
    yield Measurement(rms(one - other) / rms(other), tolerance.GRADIENT_F16, "all gradients")


def loss_scale(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The scale of every step is the oracle's, and a step that overflows changes nothing else."""
    rule = case.recipe.loss_scaling
    learner = backends.subject.make_learner(case, "float16")
    state, expected = copy_state(learner.state()), LossScale(rule.initial)
    yield compare_values("first scale", state.loss_scale, expected, EXACT)
    scales, overflows = [], 0
    for step in range(STEPS):
        report = learner.step(case.make_batch(step), compute_lr(case.recipe, step, STEPS))
        assert report.loss_scale is not None, "float16 has a loss scale"
        scales.append(float(report.loss_scale))
        yield compare_values(f"scale of step {step + 1}", scales[-1], expected.scale, EXACT)
        yield compare_values(
            "the loss is finite", bool(np.isfinite(float(report.loss))), True, EXACT
        )
        finite = bool(np.isfinite(float(report.grad_norm)))
        expected = update_loss_scale(expected, finite, rule)
        before, state = state, copy_state(learner.state())
        yield compare_values(f"scale after step {step + 1}", state.loss_scale, expected, EXACT)
        if not finite:
            overflows += 1
            yield from _compare_bits(state, before)
    yield compare_values("steps overflow", overflows > 0, True, EXACT)
    grows = any(b > a for a, b in pairwise(scales))
    at_minimum = scales.count(rule.minimum) > 1
    happens = at_minimum if case.name.startswith("scaled.minimum") else grows and overflows < STEPS
    yield compare_values("the scale grows, or is at its minimum", happens, True, EXACT)


def _compare_bits(got: TrainState, expected: TrainState) -> Iterator[Measurement]:
    for name, value in expected.params.items():
        yield compare_bits(name, got.params[name], value, EXACT)
    for slot, held in expected.slots.items():
        for name, value in held.items():
            yield compare_bits(f"{slot} of {name}", got.slots[slot][name], value, EXACT)


def handover(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Another backend continues a float16 run with its scale, and with nearly its next loss."""
    case = replace(case, recipe=replace(case.recipe, loss_scaling=EAGER))
    pair = backends.subject, backends.reference
    for one, other in (pair, pair[::-1]):
        first = one.make_learner(case, "float16")
        for step in range(STEPS // 2):
            float(first.step(case.make_batch(step), 1e-3).loss)
        state = copy_state(first.state())
        options = other.make_options("float16")
        second = other.backend.learner(case.spec, state, case.recipe, options)
        names = f"{one.name} to {other.name}"
        kept = second.state().loss_scale
        yield compare_values(f"{names}: scale", kept, first.state().loss_scale, EXACT)
        batch = case.make_batch(STEPS // 2)
        got, expected = (float(learner.step(batch, 1e-3).loss) for learner in (second, first))
        yield compare_absolute(f"{names}: next loss", got, expected, tolerance.NEXT_F16)


def restart(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A float16 run that begins anew from its state after every other step is the unbroken one."""
    case = replace(case, recipe=replace(case.recipe, loss_scaling=EAGER))
    options = backends.subject.make_options("float16", deterministic=True)
    make_learner = backends.subject.backend.learner
    whole = make_learner(case.spec, make_initial_state(case), case.recipe, options)
    again = make_learner(case.spec, make_initial_state(case), case.recipe, options)
    for step in range(STEPS // 2):
        batch = case.make_batch(step)
        loss, other = (float(learner.step(batch, 1e-3).loss) for learner in (again, whole))
        yield compare_bits(f"loss of step {step + 1}", loss, other, EXACT)
        if step % 2:
            state = copy_state(again.state())
            again = make_learner(case.spec, state, case.recipe, options)
    got, expected = copy_state(again.state()), copy_state(whole.state())
    yield compare_values("loss scale", got.loss_scale, expected.loss_scale, EXACT)
    yield from _compare_bits(got, expected)


LAWS_OF_GRADIENTS = (
    Law(
        "L3",
        "float16-gradients",
        "float16 gradients have the length and direction of float64's",
        tolerance.GRADIENT_F16,
        gradients,
        match_names("default/", "output.", "preference.sig", "slices."),
        "learner",
        "float16",
    ),
    Law(
        "L3",
        "float16-small",
        "float16 gradients do not vanish where those of the summed loss would",
        tolerance.GRADIENT_F16,
        small_gradients,
        match_names("default/"),
        "learner",
        "float16",
    ),
)
LAWS_OF_RUNS = (
    Law(
        "L4",
        "loss-scale",
        "the loss scale is the oracle's, and an overflow changes nothing else",
        EXACT,
        loss_scale,
        match_names("scaled."),
        "learner",
        "float16",
    ),
)
LAWS_OF_MOVES = (
    Law(
        "L5",
        "handover-float16",
        "another backend continues the run in float16, with its loss scale",
        tolerance.NEXT_F16,
        handover,
        match_names("move.dropout"),
        "two learners",
        "float16",
    ),
    Law(
        "L5",
        "resume-float16",
        "restarts change no bit in float16",
        EXACT,
        restart,
        match_names("move.dropout"),
        "learner",
        "float16",
    ),
)
