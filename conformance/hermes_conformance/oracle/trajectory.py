"""Training runs of a few dozen steps, by a learner and by the oracle."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hermes.interface import StepReport, TrainState
from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import list_parameters, list_unfrozen
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure.subject import BackendUnderTest, make_initial_state
from hermes_conformance.oracle import complex_step
from hermes_numpy.optim import adamw, clip_scale


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

    return TrainState(copy(state.params), copy(state.exp_avg), copy(state.exp_avg_sq), state.step)


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
    """The state after one AdamW step with these gradients, and their norm. float64."""
    table = dict(list_parameters(case.spec))
    if case.recipe.lora is not None:
        table |= list_adapter_tensors(case.spec, case.recipe.lora)
    norm = float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads.values())))
    scale, step = clip_scale(norm, case.recipe.grad_clip), state.step + 1
    params = {name: np.asarray(p, np.float64) for name, p in state.params.items()}
    first, second = {}, {}
    for name, g in grads.items():
        zero = np.zeros(g.shape)
        params[name], first[name], second[name] = adamw(
            params[name],
            scale * np.asarray(g, np.float64),
            np.asarray(state.exp_avg.get(name, zero), np.float64),
            np.asarray(state.exp_avg_sq.get(name, zero), np.float64),
            lr=lr,
            step=step,
            decay=float(table[name].decay),
            rule=case.recipe.optimizer,
        )
    return TrainState(params, first, second, step), norm


def train_oracle(case: Case, steps: int) -> Trajectory:
    """Train the case with the oracle alone: derivatives by complex steps, and its own AdamW."""
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
