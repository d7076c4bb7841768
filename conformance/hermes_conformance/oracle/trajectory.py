"""Training runs of a few dozen steps, by a learner and by the oracle."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hermes.interface import StepReport, TrainState
from hermes.numerics.moment_format import compute_rounding_keys
from hermes.numerics.params import list_unfrozen
from hermes.numerics.update_rules import (
    EMA,
    choose_update_rules,
    is_coded_slot,
    is_keyed_slot,
    is_short_slot,
    list_state_shapes,
)
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure.subject import BackendUnderTest, make_initial_state
from hermes_conformance.oracle import complex_step
from hermes_numpy.moment_format import round_stochastically, round_to_float8
from hermes_numpy.optim import clip_scale
from hermes_numpy.update_rules import average_weights, round_to_bfloat16, update


@dataclass(frozen=True)
class Trajectory:
    """Loss and gradient norm of every step, and the state after the last."""

    losses: np.ndarray
    norms: np.ndarray
    state: TrainState


def copy_state(state: TrainState) -> TrainState:
    """The state as arrays that later steps of the learner do not change."""

    def copy(tensors: Weights) -> dict[str, np.ndarray]:
        return {name: np.array(tensors[name]) for name in tensors}

    slots = {slot: copy(held) for slot, held in state.slots.items()}
    return TrainState.from_slots(copy(state.params), slots, state.step, state.loss_scale)


def train(
    subject: BackendUnderTest,
    case: Case,
    steps: int,
    precision: str = "float64",
    *,
    since: TrainState | None = None,
    total: int | None = None,
    **fields: Any,
) -> Trajectory:
    """Train the case from `since`, or from its weights, until step `steps`.

    total: the length of the run in its schedule, `steps` by default. fields: of Options.
    """
    state = since or make_initial_state(case)
    options = subject.make_options(precision, **fields)
    learner = subject.backend.learner(case.spec, state, case.recipe, options)
    reports: list[StepReport] = []
    for step in range(state.step, steps):
        lr = compute_lr(case.recipe, step, total or steps)
        reports.append(learner.step(case.make_batch(step), lr))
    losses = np.array([float(report.loss) for report in reports])
    norms = np.array([float(report.grad_norm) for report in reports])
    return Trajectory(losses, norms, copy_state(learner.state()))


def apply_oracle_update(
    case: Case, state: TrainState, grads: Weights, lr: float
) -> tuple[TrainState, float]:
    """The state after one optimizer step with these gradients, and their norm. float64."""
    rules, shapes = (
        choose_update_rules(case.spec, case.recipe),
        list_state_shapes(case.spec, case.recipe),
    )
    norm = float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads.values())))
    scale, step = clip_scale(norm, case.recipe.grad_clip), state.step + 1
    params = {name: np.asarray(p, np.float64) for name, p in state.params.items()}
    slots: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in shapes}
    for name, g in grads.items():
        kept = {
            slot: np.asarray(state.slots.get(slot, {}).get(name, np.zeros(held[name])), np.float64)
            for slot, held in shapes.items()
            if name in held
        }
        if case.recipe.ema and name not in state.slots.get(EMA, {}):
            kept[EMA] = params[name]
        g = scale * np.asarray(g, np.float64)
        params[name], new = update(params[name], g, kept, lr=lr, step=step, rule=rules[name])
        if case.recipe.ema:
            new[EMA] = average_weights(kept[EMA], params[name], case.recipe.ema)
        for slot, value in new.items():
            (key,) = compute_rounding_keys(case.recipe.seed, step, [(slot, name)])
            if is_coded_slot(slot, case.recipe):
                value = round_to_float8(value, slot, int(key))
            elif is_keyed_slot(slot, case.recipe):
                value = round_stochastically(value, int(key))
            elif is_short_slot(slot, case.recipe):
                value = round_to_bfloat16(value)
            slots[slot][name] = value
    return TrainState.from_slots(params, slots, step), norm


def train_oracle(case: Case, steps: int) -> Trajectory:
    """Train the case with the oracle alone: derivatives by complex steps, and its own optimizer."""
    state, losses, norms = make_initial_state(case), [], []
    trained = list_unfrozen(case.spec, case.recipe.freeze_layers)
    for step in range(steps):
        dropout = (case.recipe.seed, step + 1) if case.spec.has_dropout else None
        loss, grads = complex_step.compute_gradient(
            case.spec, state.params, case.make_batch(step), dropout
        )
        grads = {name: grads[name] for name in trained}
        lr = compute_lr(case.recipe, step, steps)
        state, norm = apply_oracle_update(case, state, grads, lr)
        losses.append(loss)
        norms.append(norm)
    return Trajectory(np.array(losses), np.array(norms), state)
