"""A backend under judgement, and what it has computed for the case at hand.

Laws ask a Side; what several laws need (a built model, its logits, its gradients) is computed once
and forgotten with the case, so that laws stay independent and cheap.
"""

from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np

from hermes.errors import Unsupported
from hermes.interface import Backend, Learner, Model, Options, TrainState
from hermes.recipe import Recipe
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import model
from hermes_conformance.cases.weights import fresh

T = TypeVar("T")


class BackendUnderTest:
    """One backend on one device; `device` None means the backend's own choice.

    float64 goes to the CPU where the device has none, as no GPU of Apple's has.
    """

    def __init__(self, backend: Backend, device: str | None = None):
        self.backend, self.device = backend, device
        self.name = backend.name
        self._case: Case | None = None
        self._kept: dict[object, object] = {}
        self._trains: bool | None = None

    def options(self, precision: str = "float64", **fields) -> Options:
        """Uncompiled and deterministic on this side's device, unless `fields` say otherwise."""
        device = self.float64_device if precision == "float64" else self.device
        usual = {"device": device, "compile": False, "deterministic": True}
        return Options(precision=precision, **{**usual, **fields})

    @cached_property
    def float64_device(self) -> str | None:
        """Where float64 is computed: here, or on the CPU if it is declined here."""
        if self.device in (None, "cpu"):
            return self.device
        case = Case("probe", model(num_layers=1), fresh)
        options = Options(device=self.device, precision="float64", compile=False)
        try:
            self.backend.build(case.spec, case.weights, options)
        except Unsupported:
            return "cpu"
        return self.device

    @property
    def trains(self) -> bool:
        """Whether the backend has learners at all; the oracle has not."""
        if self._trains is None:
            case = Case("probe", model(num_layers=1), fresh)
            try:
                self.backend.learner(case.spec, start(case), RECIPE, self.options("float32"))
                self._trains = True
            except Unsupported:
                self._trains = False
        return self._trains

    def forget(self) -> None:
        """Compute everything anew from here on."""
        self._case, self._kept = None, {}

    def once(self, case: Case, what: object, make: Callable[[], T]) -> T:
        """make(), remembered under `what` until another case comes."""
        if self._case is not case:
            self._case, self._kept = case, {}
        if what not in self._kept:
            self._kept[what] = make()
        return self._kept[what]  # type: ignore[return-value]

    def model(self, case: Case, precision: str = "float64", **fields) -> Model:
        """The case's model for evaluation."""
        options = self.options(precision, **fields)
        return self.once(
            case, ("model", options), lambda: self.backend.build(case.spec, case.weights, options)
        )

    def logits(self, case: Case, precision: str = "float64", **fields) -> np.ndarray:
        """Logits of the case's first micro-batch, documents kept apart. (B, T, V)"""
        return self.once(
            case,
            ("logits", precision, tuple(fields.items())),
            lambda: self.model(case, precision, **fields).logits(case.tokens, case.segments),
        )

    def learner(
        self, case: Case, precision: str = "float64", recipe: Recipe | None = None, **fields
    ) -> Learner:
        """A new learner from the case's weights, no update made yet."""
        options = self.options(precision, **fields)
        return self.backend.learner(case.spec, start(case), recipe or case.recipe, options)

    def grads(
        self, case: Case, precision: str = "float64", **fields
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Loss of the case's batch with dropout as in the first update, and all its gradients."""

        def make() -> tuple[float, dict[str, np.ndarray]]:
            loss, found = self.learner(case, precision, **fields).grads(case.batch)
            return loss, {name: np.array(found[name]) for name in found}

        return self.once(case, ("grads", precision, tuple(fields.items())), make)

    def decoded(self, case: Case, cuts: tuple[int, ...], precision: str = "float64", **fields):
        """Logits after each piece of the first micro-batch, read piece by piece. [(B, V)]"""
        decoder = self.model(case, precision, **fields).decoder(case.B, case.T)
        places = (0, *cuts, case.T)
        return [decoder.advance(case.tokens[:, a:b]) for a, b in pairwise(places) if b > a]


def start(case: Case) -> TrainState:
    """The case's weights before the first update."""
    return TrainState(case.params, {}, {}, 0)
