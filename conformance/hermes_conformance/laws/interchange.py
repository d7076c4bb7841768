"""L5: stop on one backend, go on with another, and nothing is lost on the way."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from hermes.checkpoint import Progress, open_checkpoint, save
from hermes.interface import TrainState
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.specs import fields, model
from hermes_conformance.cases.weights import fresh
from hermes_conformance.laws.training import WARM, compared
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, identical, same
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import Trajectory, train

FIRST, TOTAL, FAR = 6, 12, 30
STOPS = (2, 5, 9)


def handed_over(case: Case, sides: Sides) -> Iterator[Measure]:
    """One backend's state, the other's next updates, in float64 and in both directions."""
    for one, other in ((sides.subject, sides.reference), (sides.reference, sides.subject)):
        begun = train(one, case, FIRST, total=TOTAL).state
        expected = train(one, case, TOTAL, since=begun)
        got = train(other, case, TOTAL, since=begun)
        for measure in compared(case, got, expected):
            yield replace(measure, tensor=f"{one.name} to {other.name}: {measure.tensor}")


def handed_over_32(case: Case, sides: Sides) -> Iterator[Measure]:
    """The same in float32: the next update's loss, and those after it."""
    for one, other in ((sides.subject, sides.reference), (sides.reference, sides.subject)):
        way = f"{one.name} to {other.name}"
        begun = train(one, case, FIRST, "float32", total=FAR).state
        expected = train(one, case, FAR, "float32", since=begun).losses
        got = train(other, case, FAR, "float32", since=begun).losses
        yield absolute(f"{way}: next loss", got[0], expected[0], tolerance.NEXT_32)
        yield absolute(f"{way}: losses", got, expected, tolerance.TRAIN_32)


def resumed(case: Case, sides: Sides) -> Iterator[Measure]:
    """Stopped and resumed three times, the run is the uninterrupted one, bit for bit."""
    whole = train(sides.subject, case, TOTAL, "float32")
    state, losses = None, []
    for stop in (*STOPS, TOTAL):
        part = train(sides.subject, case, stop, "float32", since=state, total=TOTAL)
        state = part.state
        losses.append(part.losses)
    yield identical("losses", np.concatenate(losses), whole.losses, EXACT)
    assert state is not None, "there is more than one stop"
    yield from _same_state(state, whole.state)


def _same_state(got: TrainState, expected: TrainState, note: str = "") -> Iterator[Measure]:
    yield same(f"step{note}", got.step, expected.step, EXACT)
    for part in ("params", "exp_avg", "exp_avg_sq"):
        one, other = getattr(got, part), getattr(expected, part)
        yield same(f"names of {part}{note}", set(one), set(other), EXACT)
        for name in other:
            yield identical(f"{part} of {name}{note}", one[name], other[name], EXACT)


def written(side: BackendUnderTest, run: Path, case: Case, state: TrainState) -> Path:
    """A checkpoint of the state as that side's learner hands it over."""
    options = side.options("float32")
    learner = side.backend.learner(case.spec, state, case.recipe, options)
    progress = Progress("conformance", state.step, case.recipe, total_steps=TOTAL)
    return save(run, learner.state(), spec=case.spec, progress=progress)


def filed(case: Case, sides: Sides) -> Iterator[Measure]:
    """Through checkpoints, to the other backend and back, from either side: the same bits."""
    one, other = sides.subject, sides.reference if sides.peers else sides.subject
    yield from _there_and_back(case, one, other)
    if sides.peers:
        yield from _there_and_back(case, other, one)


def _there_and_back(
    case: Case, one: BackendUnderTest, other: BackendUnderTest
) -> Iterator[Measure]:
    """One trains and writes, the other opens and writes, the first opens that and writes again."""
    begun = train(one, case, FIRST, "float32", total=TOTAL)
    with tempfile.TemporaryDirectory() as folder:
        first = written(one, Path(folder, "first"), case, begun.state)
        opened = open_checkpoint(first)
        yield same("the spec read back", opened.spec, case.spec, EXACT)
        yield from _same_state(opened.state, begun.state, " in the file")
        for place, side in (("there", other), ("back", one)):
            again = written(side, Path(folder, place), case, opened.state)
            for file in ("model.safetensors", "optimizer.safetensors", "model.mal"):
                equal = (again / file).read_bytes() == (first / file).read_bytes()
                what = f"{file}, {one.name} to {other.name}, {place}, is the same to the byte"
                yield same(what, equal, True, EXACT)
            opened = open_checkpoint(again)
            yield from _continued(case, side, begun, opened.state)


def _continued(
    case: Case, side: BackendUnderTest, begun: Trajectory, state: TrainState
) -> Iterator[Measure]:
    """From the file or from memory, the same backend goes on alike."""
    direct = train(side, case, TOTAL, "float32", since=begun.state).losses
    filed_losses = train(side, case, TOTAL, "float32", since=state).losses
    yield identical(f"losses of {side.name} after the file", filed_losses, direct, EXACT)


@cache
def cases(long: bool = False) -> tuple[Case, ...]:
    """Of L5."""
    specs = {
        "dropout": fields()["every dropout"],
        "tied": fields()["output.bias=true/tied"],
        "learned": fields()["attention.position_encoding=learned"],
    }
    made = [Case(f"move.{name}/fresh", spec, fresh, recipe=WARM) for name, spec in specs.items()]
    frozen = replace(WARM, freeze_layers=1)
    return (*made, Case("move.frozen/fresh", model(), fresh, recipe=frozen))


def _law(name, says, check, bound, applies, needs, precision):
    return Law("L5", name, says, bound, check, applies, needs, precision)


def _all(case: Case) -> bool:
    return True


def _two(case: Case) -> bool:
    return case.name in ("move.dropout/fresh", "move.frozen/fresh")


LAWS = (
    _law(
        "handover",
        "the other backend goes on with the run",
        handed_over,
        tolerance.TRAIN_64,
        _all,
        "peer",
        "float64",
    ),
    _law(
        "handover-float32",
        "so does it in float32",
        handed_over_32,
        tolerance.NEXT_32,
        _two,
        "peer",
        "float32",
    ),
    _law("resume", "three resumes change no bit", resumed, EXACT, _all, "learner", "float32"),
    _law("file", "a checkpoint is the same whoever writes it", filed, EXACT, _all, "learner", None),
)
