"""L5: a run stopped on one backend is resumed on another, and nothing is lost in between."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from hermes.checkpoint import Progress, open_checkpoint, save
from hermes.interface import TrainState
from hermes.recipe import OptimizerRecipe
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.specs import make_field_specs, make_spec
from hermes_conformance.cases.weights import draw_fresh
from hermes_conformance.laws import kept_rows
from hermes_conformance.laws.float64_state import float64_resume
from hermes_conformance.laws.training import compare_trajectories, list_parts
from hermes_conformance.laws.training_cases import TRAINING_RECIPE
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_absolute,
    compare_bits,
    compare_values,
)
from hermes_conformance.measure.law import CasePredicate, Check, Law, Needs, match_names
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.measure.tolerance import EXACT, Bound
from hermes_conformance.oracle.trajectory import Trajectory, train

HANDOVER_STEP, TOTAL_STEPS, TOTAL_STEPS_32 = 6, 12, 30
STOPS = (2, 5, 9)
FILES = ("model.safetensors", "optimizer.safetensors", "model.mal")


def _list_directions(backends: Backends) -> tuple[tuple[BackendUnderTest, BackendUnderTest], ...]:
    """(from, to), both ways."""
    one, other = backends.subject, backends.reference
    return (one, other), (other, one)


def handover(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A run continued from another backend's state is the other's own run, in float64."""
    for one, other in _list_directions(backends):
        state = train(one, case, HANDOVER_STEP, total=TOTAL_STEPS).state
        expected = train(one, case, TOTAL_STEPS, since=state)
        got = train(other, case, TOTAL_STEPS, since=state)
        for measurement in compare_trajectories(case, got, expected):
            tensor = f"{one.name} to {other.name}: {measurement.tensor}"
            yield replace(measurement, tensor=tensor)


def handover_float32(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The same in float32, by the losses: the next one, and those after it."""
    for one, other in _list_directions(backends):
        names = f"{one.name} to {other.name}"
        state = train(one, case, HANDOVER_STEP, "float32", total=TOTAL_STEPS_32).state
        expected = train(one, case, TOTAL_STEPS_32, "float32", since=state).losses
        got = train(other, case, TOTAL_STEPS_32, "float32", since=state).losses
        yield compare_absolute(f"{names}: next loss", got[0], expected[0], tolerance.NEXT_32)
        yield compare_absolute(f"{names}: losses", got, expected, tolerance.TRAIN_32)


def resume(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A run stopped and resumed three times is the uninterrupted one, bit for bit."""
    run = partial(train, backends.subject, case, precision="float32", deterministic=True)
    whole = run(steps=TOTAL_STEPS)
    state, losses = None, []
    for stop in (*STOPS, TOTAL_STEPS):
        part = run(steps=stop, since=state, total=TOTAL_STEPS)
        state = part.state
        losses.append(part.losses)
    yield compare_bits("losses", np.concatenate(losses), whole.losses, EXACT)
    assert state is not None, "there is more than one stop"
    yield from _compare_states(state, whole.state)


def _compare_states(got: TrainState, expected: TrainState, note: str = "") -> Iterator[Measurement]:
    yield compare_values(f"step{note}", got.step, expected.step, EXACT)
    yield compare_values(f"slots{note}", set(got.slots), set(expected.slots), EXACT)
    for part, other in list_parts(expected).items():
        one = list_parts(got)[part]
        yield compare_values(f"names of {part}{note}", set(one), set(other), EXACT)
        for name in other:
            yield compare_bits(f"{part} of {name}{note}", one[name], other[name], EXACT)


def write_checkpoint(
    subject: BackendUnderTest, folder: Path, case: Case, state: TrainState
) -> Path:
    """Write a checkpoint of the state that the backend's learner hands over."""
    options = subject.make_options("float32")
    learner = subject.backend.learner(case.spec, state, case.recipe, options)
    progress = Progress("conformance", state.step, case.recipe, total_steps=TOTAL_STEPS)
    return save(folder, learner.state(), spec=case.spec, progress=progress)


def checkpoint_files(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A checkpoint is the same to the byte whichever backend has read and written it."""
    one, other = backends.subject, backends.reference if backends.both_train else backends.subject
    yield from _compare_files(case, one, other)
    if backends.both_train:
        yield from _compare_files(case, other, one)


def _compare_files(
    case: Case, one: BackendUnderTest, other: BackendUnderTest
) -> Iterator[Measurement]:
    """One trains and writes; the other reads that and writes; the first reads that and writes."""
    run = train(one, case, HANDOVER_STEP, "float32", total=TOTAL_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        first = write_checkpoint(one, Path(folder, "first"), case, run.state)
        checkpoint = open_checkpoint(first)
        yield compare_values("the spec read back", checkpoint.spec, case.spec, EXACT)
        yield from _compare_states(checkpoint.state, run.state, " in the file")
        for leg, writer in (("there", other), ("back", one)):
            again = write_checkpoint(writer, Path(folder, leg), case, checkpoint.state)
            for file in FILES:
                equal = (again / file).read_bytes() == (first / file).read_bytes()
                what = f"{file}, {one.name} to {other.name}, {leg}, is the same to the byte"
                yield compare_values(what, equal, True, EXACT)
            checkpoint = open_checkpoint(again)
            if writer.is_deterministic:
                yield _compare_continuations(case, writer, run, checkpoint.state)


def _compare_continuations(
    case: Case, subject: BackendUnderTest, run: Trajectory, state: TrainState
) -> Measurement:
    """A run continued with a state from a file against the run continued in memory."""
    train_on = partial(train, subject, case, TOTAL_STEPS, "float32", deterministic=True)
    expected, got = train_on(since=run.state).losses, train_on(since=state).losses
    return compare_bits(f"losses of {subject.name} after the file", got, expected, EXACT)


@cache
def make_cases(long: bool = False) -> tuple[Case, ...]:
    """The cases of L5."""
    specs = {
        "dropout": make_field_specs()["every dropout"],
        "tied": make_field_specs()["output.bias=true/tied"],
        "learned": make_field_specs()["attention.position_encoding=learned"],
    }
    cases = [
        Case(f"move.{name}/fresh", spec, draw_fresh, recipe=TRAINING_RECIPE)
        for name, spec in specs.items()
    ]
    for name, ema in (("muon", 0.9), ("normuon", 0.0), ("lion", 0.0), ("adafactor", 0.0)):
        recipe = replace(TRAINING_RECIPE, optimizer=OptimizerRecipe(name), lr=1e-3, ema=ema)
        cases.append(Case(f"move.{name}/fresh", make_spec(), draw_fresh, recipe=recipe))
    short = replace(TRAINING_RECIPE, optimizer=OptimizerRecipe(moments="float8"))
    cases.append(Case("move.float8/fresh", make_spec(num_layers=1), draw_fresh, recipe=short))
    frozen = replace(TRAINING_RECIPE, freeze_layers=1)
    cases.append(Case("move.frozen/fresh", make_spec(), draw_fresh, recipe=frozen))
    return (*cases, *kept_rows.make_cases())


def _make_law(
    name: str,
    statement: str,
    check: Check,
    bound: Bound,
    applies_to: CasePredicate,
    needs: Needs,
    precision: str | None,
) -> Law:
    return Law("L5", name, statement, bound, check, applies_to, needs, precision)


LAWS = (
    _make_law(
        "handover",
        "another backend continues the run",
        handover,
        tolerance.TRAIN_64,
        match_names("move."),
        "two learners",
        "float64",
    ),
    _make_law(
        "handover-float32",
        "another backend continues the run in float32",
        handover_float32,
        tolerance.NEXT_32,
        match_names("move.dropout/fresh", "move.frozen/fresh"),
        "two learners",
        "float32",
    ),
    _make_law(
        "resume",
        "three resumes change no bit",
        resume,
        EXACT,
        match_names("move."),
        "learner",
        "float32",
    ),
    _make_law(
        "resume-float64",
        "a float64 run resumed from its checkpoint loses no bit",
        float64_resume,
        EXACT,
        match_names("move.dropout", "move.tied"),
        "learner",
        "float64",
    ),
    _make_law(
        "file",
        "a checkpoint is the same whichever backend writes it",
        checkpoint_files,
        EXACT,
        match_names("move."),
        "learner",
        None,
    ),
    *kept_rows.LAWS,
)
