"""The backends of a run, and what each has computed for the case at hand.

What several laws need (a built model, its logits, its gradients) is computed once and dropped with
the case, so that laws stay independent of each other and cheap.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from hermes.errors import Unsupported
from hermes.interface import Backend, Learner, Model, Options, TrainState
from hermes.recipe import Recipe
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import make_spec
from hermes_conformance.cases.weights import draw_fresh

T = TypeVar("T")


class BackendUnderTest:
    """One backend on one device; `device` None is the backend's own choice.

    float64 is computed on the CPU where the device has none, as no GPU of Apple's has.
    used_devices: those that something was computed on since it was last emptied, by which an
    outcome says what it speaks of.
    """

    def __init__(self, backend: Backend, device: str | None = None):
        self.backend, self.device = backend, device
        self.name = backend.name
        self._case: Case | None = None
        self._results: dict[object, Any] = {}
        self._trains: bool | None = None
        self._grants: dict[str | None, bool] = {}
        self.used_devices: set[str] = set()

    def make_options(self, precision: str = "float64", **fields: Any) -> Options:
        """Options on this device, uncompiled unless `fields` say otherwise.

        Deterministic where the device grants that; a law of bits asks for it whatever the device.
        """
        own = self.float64_device if precision == "float64" else self.device
        device: str | None = fields.get("device", own)
        self.used_devices.add(device or self.device_name)
        granted = self._grants_determinism(device)
        defaults = {"device": device, "compile": False, "deterministic": granted}
        return Options(precision=precision, **{**defaults, **fields})

    @property
    def is_deterministic(self) -> bool:
        """Whether the device grants the same bits on every run."""
        return self._grants_determinism(self.device)

    def _grants_determinism(self, device: str | None) -> bool:
        """Whether a model is refused for being deterministic, and for that alone."""
        if device not in self._grants:
            plain = Options(device=device, precision="float32", compile=False)
            can_build = self._can_build(plain)
            self._grants[device] = not can_build or self._can_build(
                replace(plain, deterministic=True)
            )
        return self._grants[device]

    def _can_build(self, options: Options) -> bool:
        case = Case("probe", make_spec(num_layers=1), draw_fresh)
        try:
            self.backend.build(case.spec, case.weights, options)
        except Unsupported:
            return False
        return True

    @cached_property
    def float64_device(self) -> str | None:
        """Where float64 is computed: on the backend's device, or on the CPU if it declines it."""
        if self.device_name == "cpu":
            return self.device
        # By its name, as a backend may move what leaves the device to it to the CPU by itself.
        options = Options(device=self.device_name, precision="float64", compile=False)
        return self.device if self._can_build(options) else "cpu"

    @property
    def device_name(self) -> str:
        """The device that its models are on."""
        return self.device or self.backend.devices()[0]

    @property
    def trains(self) -> bool:
        """Whether the backend has learners; the oracle has none."""
        if self._trains is None:
            case = Case("probe", make_spec(num_layers=1), draw_fresh)
            options = self.make_options("float32")
            try:
                self.backend.learner(case.spec, make_initial_state(case), RECIPE, options)
                self._trains = True
            except Unsupported:
                self._trains = False
        return self._trains

    def forget(self) -> None:
        """Drop all results, so that everything is computed again."""
        self._case, self._results = None, {}

    def compute_once(self, case: Case, key: object, compute: Callable[[], T]) -> T:
        """The result of compute(), kept under `key` until another case comes."""
        if self._case is not case:
            self._case, self._results = case, {}
        if key not in self._results:
            self._results[key] = compute()
        result: T = self._results[key]
        return result

    def build_model(self, case: Case, precision: str = "float64", **fields: Any) -> Model:
        """The case's model for evaluation."""
        options = self.make_options(precision, **fields)
        return self.compute_once(
            case, ("model", options), lambda: self.backend.build(case.spec, case.weights, options)
        )

    def compute_logits(self, case: Case, precision: str = "float64", **fields: Any) -> np.ndarray:
        """Logits of the case's first micro-batch, with its documents apart. (B, T, V)"""
        self.make_options(precision, **fields)  # what is kept was computed on that device, too
        return self.compute_once(
            case,
            ("logits", precision, tuple(fields.items())),
            lambda: self.build_model(case, precision, **fields).logits(case.tokens, case.segments),
        )

    def make_learner(
        self, case: Case, precision: str = "float64", recipe: Recipe | None = None, **fields: Any
    ) -> Learner:
        """A new learner with the case's weights, before its first step."""
        options = self.make_options(precision, **fields)
        state = make_initial_state(case)
        return self.backend.learner(case.spec, state, recipe or case.recipe, options)

    def compute_grads(
        self, case: Case, precision: str = "float64", **fields: Any
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients of the case's batch, with the dropout masks of the first step."""

        def compute() -> tuple[float, dict[str, np.ndarray]]:
            loss, grads = self.make_learner(case, precision, **fields).grads(case.batch)
            return loss, {name: np.array(grads[name]) for name in grads}

        self.make_options(precision, **fields)
        return self.compute_once(case, ("grads", precision, tuple(fields.items())), compute)

    def decode(
        self, case: Case, cuts: tuple[int, ...], precision: str = "float64", **fields: Any
    ) -> list[np.ndarray]:
        """Logits after each piece of the first micro-batch, read through a KV cache. [(B, V)]"""
        decoder = self.build_model(case, precision, **fields).decoder(case.B, case.T)
        ends = (0, *cuts, case.T)
        return [decoder.advance(case.tokens[:, a:b]) for a, b in pairwise(ends) if b > a]


@dataclass(frozen=True)
class Backends:
    """The backend under test, the reference it is compared with, and the oracle.

    The oracle may be the reference.
    """

    subject: BackendUnderTest
    reference: BackendUnderTest
    oracle: BackendUnderTest

    @property
    def both_train(self) -> bool:
        """Whether both train, so that gradients can be compared element by element."""
        return self.subject.trains and self.reference.trains


def make_initial_state(case: Case) -> TrainState:
    """The case's weights before the first step."""
    return TrainState(case.params, {}, {}, 0)
