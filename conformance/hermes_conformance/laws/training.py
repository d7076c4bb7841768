"""L4: training, where small errors of the optimizer, the clipping or the schedule grow."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from hermes.interface import Learner, Tensors, TrainState
from hermes.numerics.moment_format import FORMATS
from hermes.numerics.update_rules import EMA, choose_update_rules, is_coded_slot, is_short_slot
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.golden import vectors
from hermes_conformance.laws.gradients import has_gradient
from hermes_conformance.laws.training_cases import (
    LONG_STEPS,
    NEW_RULES,
    SHORT_STEPS,
    TRAINING_RECIPE,
    count_steps,
)
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_absolute,
    compare_bits,
    compare_relative,
    compare_values,
    rms,
)
from hermes_conformance.measure.law import CasePredicate, Check, Law, Needs, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT, Bound
from hermes_conformance.oracle.trajectory import Trajectory, apply_oracle_update, copy_state, train
from hermes_numpy.moment_format import measure_units


def list_parts(state: TrainState) -> Mapping[str, Tensors]:
    """The weights and what is kept beside them, by what they are called in measurements."""
    return {"params": state.params, **state.slots}


def compare_trajectories(
    case: Case, got: Trajectory, expected: Trajectory
) -> Iterator[Measurement]:
    """Losses, gradient norms, weights and moments of two float64 runs."""
    bound = tolerance.TRAIN_64
    yield compare_absolute("loss of each step", got.losses, expected.losses, bound)
    ratios = got.norms / np.where(expected.norms > 0, expected.norms, 1.0)
    yield compare_absolute("gradient norm of each step", ratios, expected.norms > 0, bound)
    yield from compare_states(case, got.state, expected.state, bound)


def compare_states(
    case: Case, got: TrainState, expected: TrainState, bound: Bound
) -> Iterator[Measurement]:
    """Weights and what is kept of all tensors, relative to each tensor's rms."""
    yield compare_values("step", got.step, expected.step, EXACT)
    yield compare_values("slots", set(got.slots), set(expected.slots), EXACT)
    for part, other in list_parts(expected).items():
        one = list_parts(got)[part]
        yield compare_values(f"names of {part}", set(one), set(other), EXACT)
        for name in other:
            if has_gradient(case, name):
                yield _compare_rms(f"{part} of {name}", one[name], other[name], bound)


def _compare_rms(what: str, got: ArrayLike, expected: ArrayLike, bound: Bound) -> Measurement:
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    size, apart = rms(expected), rms(got - expected)
    return Measurement(apart / size if size else apart, bound, what, expected.shape)


def compare_float32_runs(
    case: Case, got: Trajectory, expected: Trajectory
) -> Iterator[Measurement]:
    """Losses, gradient norms and weights of two runs that differ by float32's rounding."""
    yield compare_absolute("loss of each step", got.losses, expected.losses, tolerance.TRAIN_32)
    ratios = got.norms / expected.norms
    ones = np.ones_like(ratios)
    yield compare_absolute("gradient norm of each step", ratios, ones, tolerance.NORM_32)
    names = [name for name in expected.state.params if has_gradient(case, name)]
    one, other = (
        np.concatenate([np.ravel(run.state.params[name]) for name in names])
        for run in (got, expected)
    )
    yield _compare_rms("all weights", one, other, tolerance.WEIGHTS_32)


def trajectory(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A run agrees with another backend's, step by step."""
    steps = count_steps(case)
    got = train(backends.subject, case, steps)
    expected = train(backends.reference, case, steps)
    if case.recipe.grad_clip == TRAINING_RECIPE.grad_clip and case.recipe.lora is None:
        share = float(np.mean(expected.norms <= case.recipe.grad_clip))
        yield Measurement(share, tolerance.CLIPPING, "share of steps that do not clip")
    yield from compare_trajectories(case, got, expected)


def oracle_run(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A run agrees with the golden one, which the oracle made with its own gradients and AdamW."""
    stored = vectors.read_vectors(case.name)
    assert stored.run is not None, "only runs have this law"
    learner, reports = backends.subject.make_learner(case), []
    for batch, lr in zip(stored.batches, stored.rates, strict=True):
        reports.append(learner.step(batch, float(lr)))
    losses = np.array([float(report.loss) for report in reports])
    norms = np.array([float(report.grad_norm) for report in reports])
    got = Trajectory(losses, norms, copy_state(learner.state()))
    yield from compare_trajectories(case, got, stored.run)


def update(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The second step is the oracle's with the learner's own gradients."""
    learner = backends.subject.make_learner(case)
    before = _take_first_step(case, learner)
    loss, grads = learner.grads(case.make_batch(1))
    copies = {name: np.array(grads[name]) for name in grads}
    expected, norm = apply_oracle_update(case, before, copies, 7e-3)
    report = learner.step(case.make_batch(1), 7e-3)
    yield compare_values("step", report.step, 2, EXACT)
    yield compare_absolute("loss of the report", float(report.loss), loss, tolerance.LOSS_64)
    yield compare_relative("norm of the report", float(report.grad_norm), norm, tolerance.TRAIN_64)
    yield from _compare_update(case, before, learner.state(), expected, tolerance.UPDATE_64)


def _take_first_step(case: Case, learner: Learner) -> TrainState:
    """The learner's state after one step."""
    float(learner.step(case.make_batch(0), 3e-3).loss)
    return copy_state(learner.state())


def _compare_update(
    case: Case, before: TrainState, after: TrainState, expected: TrainState, bound: Bound
) -> Iterator[Measurement]:
    """Weights relative to the size of their change, and what is kept relative to its rms."""
    yield compare_values("slots", set(after.slots), set(expected.slots), EXACT)
    for name in choose_update_rules(case.spec, case.recipe):
        if not has_gradient(case, name):
            continue
        change = rms(np.subtract(expected.params[name], before.params[name])) or 1.0
        for part, held in list_parts(expected).items():
            if name in held:
                scale = change if part == "params" else None
                one = list_parts(after)[part][name]
                if bound is tolerance.UPDATE_32 and is_short_slot(part, case.recipe):
                    yield from _compare_short_moment(f"{part} of {name}", one, held[name])
                    continue
                if bound is tolerance.UPDATE_32 and is_coded_slot(part, case.recipe):
                    unit = measure_units(held[name], FORMATS[part])
                    yield from _compare_short_moment(f"{part} of {name}", one, held[name], unit)
                    continue
                yield compare_relative(f"{part} of {name}", one, held[name], bound, scale)


def _compare_short_moment(
    what: str, got: ArrayLike, expected: ArrayLike, unit: np.ndarray | None = None
) -> Iterator[Measurement]:
    """A moment kept in bfloat16, or with the distance `unit` to its neighbours, after a step."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if unit is None:
        unit = np.exp2(np.frexp(expected)[1] - 8.0)  # the distance of neighbours with 8 bits
    share = tolerance.MOMENT_16_SHARE
    # In a small tensor a single element may be more than the allowed share.
    share = dataclasses.replace(share, limit=max(share.limit, 1 / got.size))
    yield Measurement(float((got != expected).mean()), share, f"{what} apart", got.shape)
    yield compare_absolute(what, got / unit, expected / unit, tolerance.MOMENT_16)


def _make_update_check(precision: str) -> Check:
    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        """The same of production's step in this precision: weights and moments are float32."""
        learner = backends.subject.make_learner(case, precision)
        before = _take_first_step(case, learner)
        _, grads = learner.grads(case.make_batch(1))
        copies = {name: np.array(grads[name]) for name in grads}
        expected, norm = apply_oracle_update(case, before, copies, 7e-3)
        report = learner.step(case.make_batch(1), 7e-3)
        got = float(report.grad_norm)
        yield compare_relative("norm of the report", got, norm, tolerance.NORM_32)
        yield from _compare_update(case, before, learner.state(), expected, tolerance.UPDATE_32)

    return check


def float32_run(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A hundred steps in float32 stay close to the same backend's in float64."""
    got = train(backends.subject, case, LONG_STEPS, "float32")
    expected = train(backends.subject, case, LONG_STEPS)
    yield from compare_float32_runs(case, got, expected)


def repeatability(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The same run twice is the same, bit for bit."""
    first, second = (
        train(backends.subject, case, SHORT_STEPS, "float32", deterministic=True) for _ in range(2)
    )
    yield compare_bits("losses", second.losses, first.losses, EXACT)
    yield compare_bits("norms", second.norms, first.norms, EXACT)
    for name, value in first.state.params.items():
        yield compare_bits(name, second.state.params[name], value, EXACT)


def non_finite_steps(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A step whose loss or norm is not finite reports that, and changes no weight and no moment."""
    head, last = "lm_head.weight", "model.norm.weight"
    nan = case.params[head].copy()
    nan[0, 0] = np.nan
    yield from _expect_no_change(case, backends, {**case.params, head: nan}, "loss")
    # The logits stay as they are, but the square of the last norm's gradient overflows float32.
    factor = np.float32(1e25)
    scaled: Weights = {head: case.params[head] * factor, last: case.params[last] / factor}
    yield from _expect_no_change(case, backends, {**case.params, **scaled}, "norm")


def _expect_no_change(
    case: Case, backends: Backends, params: Weights, what: str
) -> Iterator[Measurement]:
    """A step from `params`, whose `what` ('loss' or 'norm') is not finite, changes nothing."""
    state = TrainState(params, {}, {}, 0)
    options = backends.subject.make_options("float32")
    learner = backends.subject.backend.learner(case.spec, state, case.recipe, options)
    report = learner.step(case.batch, 1e-2)
    finite = {"loss": np.isfinite(float(report.loss)), "norm": np.isfinite(float(report.grad_norm))}
    if what == "norm" and finite["norm"]:
        return  # a backend may sum the norm in a wider type, in which it does not overflow
    yield compare_values(f"the {what} is finite", bool(finite[what]), False, EXACT)
    yield compare_values("the loss is, too", bool(finite["loss"]), what == "norm", EXACT)
    after = learner.state()
    for name, value in params.items():
        yield compare_bits(name, after.params[name], value, EXACT)
    for slot, held in after.slots.items():
        for name in held:
            kept = np.asarray(held[name])
            before = params[name] if slot == EMA else np.zeros_like(kept)
            yield compare_bits(f"{slot} of {name}", kept, before, EXACT)


def _make_law(
    name: str,
    statement: str,
    check: Check,
    bound: Bound,
    applies_to: CasePredicate,
    needs: Needs = "learner",
    precision: str = "float64",
) -> Law:
    return Law("L4", name, statement, bound, check, applies_to, needs, precision)


_is_run = match_names("train.")

LAWS = (
    _make_law(
        "trajectory",
        "whole runs agree",
        trajectory,
        tolerance.TRAIN_64,
        _is_run,
        "two learners",
    ),
    _make_law(
        "oracle",
        "runs agree with the oracle's own",
        oracle_run,
        tolerance.TRAIN_64,
        match_names("run."),
    ),
    _make_law("update", "a step is the oracle's", update, tolerance.UPDATE_64, _is_run),
    *(
        _make_law(
            f"update-{precision}",
            f"a step in {precision} is the oracle's",
            _make_update_check(precision),
            tolerance.UPDATE_32,
            match_names("train.hot", "train.lora", "train.frozen", *NEW_RULES),
            precision=precision,
        )
        for precision in ("float32", "bfloat16", "float16")
    ),
    _make_law(
        "float32",
        "a hundred float32 steps stay close to float64",
        float32_run,
        tolerance.TRAIN_32,
        match_names("train.dropout", "train.gpt2"),
        precision="float32",
    ),
    _make_law(
        "repeat",
        "the same run twice is the same to the bit",
        repeatability,
        EXACT,
        match_names("train.dropout", "train.gpt2", "train.preference"),
        precision="float32",
    ),
    _make_law(
        "non-finite",
        "a step whose loss or norm is not finite changes nothing",
        non_finite_steps,
        EXACT,
        match_names("train.hot", *NEW_RULES),
        precision="float32",
    ),
)
