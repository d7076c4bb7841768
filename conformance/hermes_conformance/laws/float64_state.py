"""Weights and moments that float32 cannot hold: no bit is lost on the way in, out or to a file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hermes.checkpoint import Progress, open_checkpoint, save
from hermes.interface import TrainState
from hermes.numerics.lora import list_trainable
from hermes_conformance.cases.case import Case
from hermes_conformance.measure.compare import Measurement, compare_bits, compare_values
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import train

PARTS = ("params", "exp_avg", "exp_avg_sq")
STOP, TOTAL_STEPS = 3, 6


def wide_weights(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A float64 model and learner give back weights and moments with the bits they were given."""
    params = backends.subject.build_model(case).params()
    for name, value in case.params.items():
        yield compare_bits(name, params[name], value, EXACT)
    if not backends.subject.trains:
        return
    trained = list_trainable(case.spec, case.recipe)
    first = {name: case.params[name] / 3 for name in trained}
    second = {name: np.square(case.params[name]) / 7 for name in trained}
    given = TrainState(case.params, first, second, 4)
    options = backends.subject.make_options()
    state = backends.subject.backend.learner(case.spec, given, case.recipe, options).state()
    yield from _compare_states("learner's ", state, given)


def _compare_states(note: str, got: TrainState, expected: TrainState) -> Iterator[Measurement]:
    yield compare_values(f"{note}step", got.step, expected.step, EXACT)
    for part in PARTS:
        one, other = getattr(got, part), getattr(expected, part)
        for name in other:
            yield compare_bits(f"{note}{part} of {name}", one[name], other[name], EXACT)


def float64_resume(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A float64 run resumed from its checkpoint is the uninterrupted one, bit for bit."""
    whole = train(backends.subject, case, TOTAL_STEPS)
    part = train(backends.subject, case, STOP, total=TOTAL_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress("conformance", STOP, case.recipe, total_steps=TOTAL_STEPS)
        path = save(Path(folder, "stopped"), part.state, spec=case.spec, progress=progress)
        stored = open_checkpoint(path).state
        yield from _compare_states("in the file, ", stored, part.state)
        rest = train(backends.subject, case, TOTAL_STEPS, since=stored)
    yield compare_bits("losses after the file", rest.losses, whole.losses[STOP:], EXACT)
    yield from _compare_states("after the file, ", rest.state, whole.state)
