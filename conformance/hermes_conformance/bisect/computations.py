"""What bisection runs on a case: a forward pass, decoding with a KV cache, a pass with dropout."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hermes_conformance.cases.case import Case
from hermes_conformance.laws.semantics import choose_cuts
from hermes_conformance.measure.subject import BackendUnderTest


@dataclass(frozen=True)
class Computation:
    """name_passes(case): a name for each of its forward passes. make: builds the model or learner.

    run: runs all passes on it. has_logits: whether each pass makes the logits of its last token at
    least; a chunked loss makes none.
    """

    name: str
    name_passes: Callable[[Case], tuple[str, ...]]
    make: Callable[[BackendUnderTest, Case, str], Any]
    run: Callable[[Any, Case], object]
    has_logits: bool = True


def _decode(model: Any, case: Case) -> None:
    decoder = model.decoder(case.B, case.T)
    for begin, end in _list_reads(case):
        decoder.advance(case.tokens[:, begin:end])


def _list_reads(case: Case) -> list[tuple[int, int]]:
    """(begin, end) of each read of the decoder."""
    return list(pairwise((0, *choose_cuts(case), case.T)))


def _name_reads(case: Case) -> tuple[str, ...]:
    reads = _list_reads(case)
    return tuple(
        f"read {n} of {len(reads)}, from token {begin}" for n, (begin, _) in enumerate(reads, 1)
    )


def _compute_step(model: Any, case: Case) -> object:
    """The passes of a training step; the oracle has no gradients, but the same masks."""
    if hasattr(model, "grads"):
        return model.grads(case.batch)
    return model.loss(case.batch, dropout=case.dropout)


FORWARD = Computation(
    "forward",
    lambda case: ("",),
    lambda subject, case, precision: subject.build_model(case, precision),
    lambda model, case: model.logits(case.tokens, case.segments),
)
DECODING = Computation("cached", _name_reads, FORWARD.make, _decode)
DROPOUT = Computation(
    "with dropout",
    lambda case: tuple(f"micro-batch {a}" for a in range(case.A)),
    lambda subject, case, precision: (
        subject.make_learner(case, precision)
        if subject.trains
        else subject.build_model(case, precision)
    ),
    _compute_step,
    has_logits=False,
)
