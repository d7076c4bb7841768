"""How far a backend's own float64 results move when its weights are off by one rounding.

The oracle's noise model rounds after every operation, in NumPy; at the sizes of L6 that would take
hours. The same backend in float64, which L1 certifies, gives the same measure of a case from its
weights alone: see measure/rounding_bounds.py for what is derived from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hermes.interface import Learner, TrainState
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure.compare import rms
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.oracle.tracing_arrays import PRODUCT_UNIT, UNIT

DRAWS, UPDATES = 2, 5
CPU = "cpu"
LINEAR_UNIT = 2.0**-20

Results = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Noisy:
    """exact: float64 results by name. draws: the same with weights that are off by a rounding.

    factor: what the draws' errors are multiplied by.
    """

    exact: Results
    draws: tuple[Results, ...]
    factor: float = 1.0

    def sigma(self, name: str, axis: int | None = None) -> np.ndarray:
        """Root mean square of a result's errors over the draws and an axis; None: over all."""
        errors = np.stack([draw[name] - self.exact[name] for draw in self.draws])
        axes = None if axis is None else (0, axis)
        return self.factor * np.sqrt(np.mean(np.square(errors), axis=axes))


def get_unit(precision: str) -> float:
    """The unit roundoff of a format, or of the inputs of products in it."""
    return PRODUCT_UNIT.get(precision) or UNIT[precision]


def round_weights(case: Case, unit: float, draw: int) -> Weights:
    """The case's weights, each off by up to `unit`. float64"""
    rounded = {}
    for name, value in case.params.items():
        seed = case.draw_integers(f"rounding {draw}/{name}", 1, 2**63 - 1)[0]
        noise = np.random.Generator(np.random.Philox(int(seed))).uniform(-1, 1, value.shape)
        rounded[name] = value.astype(np.float64) * (1 + unit * noise)
    return rounded


def estimate_noise(
    subject: BackendUnderTest,
    case: Case,
    precision: str,
    what: str,
    compute: Callable[[Learner], Results],
    *,
    linear: bool = True,
) -> Noisy:
    """compute(learner) in float64 on the CPU, and with rounded weights. what: names it.

    linear: its errors are in proportion to the unit, so that one unit does for all formats. Those
    of AdamW's updates are not: where a gradient is small, they change its sign.
    """
    unit = get_unit(precision)
    drawn = LINEAR_UNIT if linear else unit

    def run(params: Weights) -> Results:
        options = subject.make_options("float64", device=CPU)
        state = TrainState(params, {}, {}, 0)
        return compute(subject.backend.learner(case.spec, state, case.recipe, options))

    def run_rounded(number: int) -> Results:
        return subject.compute_once(
            case, (what, drawn, number), lambda: run(round_weights(case, drawn, number))
        )

    exact = subject.compute_once(case, (what, "exact"), lambda: run(case.params))
    return Noisy(exact, tuple(map(run_rounded, range(DRAWS))), unit / drawn)


def compute_logits(case: Case) -> Callable[[Learner], Results]:
    """A learner's logits of the case's first micro-batch."""
    return lambda learner: {
        "logits": np.asarray(learner.logits(case.tokens, case.segments), np.float64)
    }


def compute_gradients(case: Case) -> Callable[[Learner], Results]:
    """A learner's loss and gradients."""

    def compute(learner: Learner) -> Results:
        loss, grads = learner.grads(case.batch)
        return {"loss": np.array(loss), **{name: np.array(grads[name]) for name in grads}}

    return compute


def compute_updates(case: Case) -> Callable[[Learner], Results]:
    """Losses of a few updates, and how far each tensor has moved after them."""

    def compute(learner: Learner) -> Results:
        before = {name: np.array(value) for name, value in learner.params().items()}
        losses = [
            float(learner.step(case.make_batch(step), case.recipe.lr).loss)
            for step in range(UPDATES)
        ]
        after = learner.params()
        moved = {name: np.subtract(after[name], before[name], dtype=np.float64) for name in before}
        return {"loss": np.array(losses), **moved}

    return compute


def compute_error(noisy: Noisy, name: str, got: np.ndarray, floor: float) -> float:
    """A result's root mean square error, in units of sigma and of an error that is always there."""
    error = rms(np.subtract(got, noisy.exact[name], dtype=np.float64))
    scale = float(np.hypot(noisy.sigma(name), floor))
    return error / scale if scale else (0.0 if error == 0 else np.inf)
