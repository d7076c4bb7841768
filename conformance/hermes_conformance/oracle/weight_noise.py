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
    """exact: float64 results by name. squares: of each, what weights off by a rounding change.

    That is the mean square over the draws and the last axis: what is changed itself, at the sizes
    of L6 and for each format, would take more memory than a machine may have. factor: what errors
    of the draws are multiplied by.
    """

    exact: Results
    squares: Results
    factor: float = 1.0

    def get_sigmas(self, name: str) -> np.ndarray:
        """Root mean square of a result's errors over the draws and its last axis."""
        return self.factor * np.sqrt(self.squares[name])

    def get_sigma(self, name: str) -> float:
        """Root mean square of all errors of a result."""
        return float(self.factor * np.sqrt(np.mean(self.squares[name])))


def _average_squares(got: Results, exact: Results) -> Results:
    """Mean squares over the last axis of how far each result is from the exact one."""
    return {
        name: np.mean(np.square(np.atleast_1d(np.subtract(got[name], value))), axis=-1)
        for name, value in exact.items()
    }


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

    exact = subject.compute_once(case, (what, "exact"), lambda: run(case.params))

    def run_rounded() -> Results:
        draws = [
            _average_squares(run(round_weights(case, drawn, number)), exact)
            for number in range(DRAWS)
        ]
        return {name: np.mean([draw[name] for draw in draws], axis=0) for name in exact}

    squares = subject.compute_once(case, (what, drawn), run_rounded)
    return Noisy(exact, squares, unit / drawn)


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
    scale = float(np.hypot(noisy.get_sigma(name), floor))
    return error / scale if scale else (0.0 if error == 0 else np.inf)
