"""L4 of compiled evaluations, which production uses: what they compute is what eager ones do."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import Batch, Learner
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.compiled import catch_compiler_failures
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_bits,
    compare_relative,
    compare_values,
)
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT

LR = 3e-3


def _make_batches(case: Case) -> dict[str, Batch]:
    """Batches as a text gives them: the last micro-batch has fewer rows, others are shorter."""
    whole = case.batch
    weights = np.where(np.arange(whole.targets.size) % 3, 1.0, 0.25).reshape(whole.targets.shape)
    return {
        "whole": whole,
        "fewer rows": _cut(whole, rows=case.B - 1),
        "whole again": case.make_batch(1),
        "shorter": _cut(whole, length=case.T // 2),
        "weighted": replace(whole, weights=weights.astype(np.float32)),
    }


def _make_pair_batches(case: Case) -> dict[str, Batch]:
    """The same of pairs, whose micro-batches are all of one height; each has a weight."""
    whole = case.batch
    weights = np.where(np.arange(case.B) % (case.B // 2), 1.0, 0.25) * np.ones((case.A, 1))
    return {
        "whole": whole,
        "whole again": case.make_batch(1),
        "shorter": _cut(whole, length=case.T // 2),
        "weighted": replace(whole, weights=weights.astype(np.float32)),
    }


def _cut(batch: Batch, rows: int | None = None, length: int | None = None) -> Batch:
    """The batch's first rows, or the first tokens of its rows."""
    at = (slice(None), slice(rows), slice(length))
    segments = None if batch.segments is None else batch.segments[at]
    return replace(
        batch,
        tokens=batch.tokens[at],
        targets=batch.targets[at],
        rows=batch.rows[:, :rows],
        segments=segments,
    )


def evaluation(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float32: batches of several shapes, before and after an update of the weights."""

    def make(*, compile: bool) -> Learner:
        return backends.subject.make_learner(case, "float32", compile=compile)

    batches = _make_batches(case)
    with catch_compiler_failures() as failures:
        plain, compiled = make(compile=False), make(compile=True)
        # All shapes are compiled in the first round, with other weights than the second's.
        for updates in range(2):
            for name, batch in batches.items():
                what = f"{name}, after {updates} updates"
                found, expected = compiled.loss(batch), plain.loss(batch)
                yield compare_relative(what, found, expected, tolerance.LOSS_32)
            if not updates:
                before = compiled.loss(batches["whole"])
                for learner in (plain, compiled):
                    learner.step(case.batch, LR)
        moved = abs(compiled.loss(batches["whole"]) / before - 1)
    yield compare_values("the update moves the loss", moved > 1e-3, True, EXACT)
    yield compare_values("failures to compile", failures, [], EXACT)


def preferences(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The same of pairs, of which a model that is built compiled is the reference to the bit."""
    subject, batches = backends.subject, _make_pair_batches(case)

    def make(*, compile: bool) -> Learner:
        return subject.make_learner(case, "float32", compile=compile)

    with catch_compiler_failures() as failures:
        plain, compiled = make(compile=False), make(compile=True)
        model = subject.build_model(case, "float32", as_trained=True, compile=True)
        first = model.row_logprobs(case.tokens, case.batch.targets[0])
        for updates in range(2):
            for name, batch in batches.items():
                what = f"{name}, after {updates} updates"
                (loss, rows), (expected, own) = (
                    one.preferences(batch) for one in (compiled, plain)
                )
                yield compare_relative(f"rows, {what}", rows, own, tolerance.LOSS_32)
                # The loss is a function of differences of rows, so it errs as those do.
                size = float(np.abs(own).max())
                yield compare_relative(f"loss, {what}", loss, expected, tolerance.LOSS_32, size)
            if not updates:
                before = compiled.preferences(batches["whole"])[1]
                yield compare_bits("the reference", first, before[0], EXACT)
                for learner in (plain, compiled):
                    learner.step(case.batch, LR)
        moved = np.abs(compiled.preferences(batches["whole"])[1] / before - 1).max()
    yield compare_values("the update moves the rows", bool(moved > 1e-3), True, EXACT)
    yield compare_values("failures to compile", failures, [], EXACT)


LAWS = (
    Law(
        "L4",
        "compiled-evaluation",
        "a compiled evaluation has the loss of an eager one, with the weights of now",
        tolerance.LOSS_32,
        evaluation,
        match_names("compiled.packed"),
        "learner",
        "float32",
    ),
    Law(
        "L4",
        "compiled-evaluation-of-pairs",
        "a compiled evaluation of pairs has the rows and the loss of an eager one",
        tolerance.LOSS_32,
        preferences,
        match_names("evaluated pairs"),
        "learner",
        "float32",
    ),
)
