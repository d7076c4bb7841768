"""Training runs of a few dozen updates: one learner's, and the oracle's own."""

from dataclasses import dataclass

import numpy as np

from hermes.interface import StepReport, TrainState
from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import list_parameters, list_unfrozen
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure.subject import BackendUnderTest, start
from hermes_conformance.oracle import complex_step
from hermes_numpy.optim import adamw, clip_scale


@dataclass(frozen=True)
class Trajectory:
    """Losses and gradient norms of every update, and the state after the last."""

    losses: np.ndarray
    norms: np.ndarray
    state: TrainState


def kept(state: TrainState) -> TrainState:
    """The state as arrays that later updates do not change."""

    def copy(tensors: Weights) -> dict[str, np.ndarray]:
        return {name: np.array(tensors[name]) for name in tensors}

    return TrainState(copy(state.params), copy(state.exp_avg), copy(state.exp_avg_sq), state.step)


def train(
    side: BackendUnderTest,
    case: Case,
    steps: int,
    precision: str = "float64",
    *,
    since: TrainState | None = None,
    total: int | None = None,
    **fields,
) -> Trajectory:
    """The case's updates from number since.step to `steps`, of a run of `total` in its schedule."""
    begin = since or start(case)
    options = side.options(precision, **fields)
    learner = side.backend.learner(case.spec, begin, case.recipe, options)
    reports: list[StepReport] = []
    for step in range(begin.step, steps):
        lr = compute_lr(case.recipe, step, total or steps)
        reports.append(learner.step(case.update(step), lr))
    losses = np.array([float(report.loss) for report in reports])
    norms = np.array([float(report.grad_norm) for report in reports])
    return Trajectory(losses, norms, kept(learner.state()))


def oracle_step(
    case: Case, state: TrainState, grads: Weights, lr: float
) -> tuple[TrainState, float]:
    """The oracle's update from those gradients, and their norm. float64."""
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


def oracle_train(case: Case, steps: int) -> Trajectory:
    """The case's updates by the oracle alone: derivatives by complex steps, its own AdamW."""
    state, losses, norms = start(case), [], []
    trained = list_unfrozen(case.spec, case.recipe.freeze_layers)
    for step in range(steps):
        dropout = (case.recipe.seed, step + 1) if case.spec.has_dropout else None
        loss, grads = complex_step.gradient(case.spec, state.params, case.update(step), dropout)
        grads = {name: grads[name] for name in trained}
        lr = compute_lr(case.recipe, step, steps)
        state, norm = oracle_step(case, state, grads, lr)
        losses.append(loss)
        norms.append(norm)
    return Trajectory(np.array(losses), np.array(norms), state)
