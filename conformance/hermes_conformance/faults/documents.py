"""Faults of the document mask: in how training makes its batches, and in a learner's step."""

from dataclasses import replace

import numpy as np

from hermes.data import text_dataset
from hermes.interface import IGNORE
from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import Function, Patcher

LOSS, GRADIENTS = "L1/documents", "L1/document-gradients"
ROPE = "documents.rope/causal/hot"


def _change_batch(change: Function) -> Plant:
    """Make the batches of text by change(batch, windows)."""

    def wrap(original):
        def faulty(windows, *others):
            return change(original(windows, *others), windows)

        return faulty

    return lambda patcher: patcher.wrap_function(text_dataset.make_text_batch, wrap)


def _keep_ends(batch, windows):
    """The first token of a document is the target of the end of the one before."""
    return replace(batch, targets=windows[..., 1:].astype(np.int32))


def _end_early(batch, windows):
    """An end of text belongs to the document behind it."""
    segments = np.concatenate([batch.segments[..., 1:], batch.segments[..., -1:]], axis=-1)
    return replace(batch, segments=segments)


def _skip_first_target(batch, windows):
    """A document's first token has no target, nor has its last one."""
    first = np.diff(batch.segments, axis=-1, prepend=-1) != 0
    return replace(batch, targets=np.where(first, IGNORE, batch.targets))


def _join_segments(patcher: Patcher) -> None:
    """The step of a learner has no segments; its evaluation has."""
    patcher.wrap_method(
        "learner",
        "Learner",
        "_accumulate",
        lambda original: lambda self, batch: original(self, replace(batch, segments=None)),
    )


def _make_fault(name: str, law: str, plant: Plant, case: str = ROPE) -> Fault:
    return Fault(name, "document mask", law, case, plant)


FAULTS = (
    _make_fault(
        "batches of text have no segments",
        LOSS,
        _change_batch(lambda batch, windows: replace(batch, segments=None)),
    ),
    _make_fault("an end of text predicts the next document", LOSS, _change_batch(_keep_ends)),
    _make_fault("a segment begins with the end before it", LOSS, _change_batch(_end_early)),
    _make_fault("a document's first target is left out", LOSS, _change_batch(_skip_first_target)),
    _make_fault("a training step joins its documents", GRADIENTS, _join_segments),
    _make_fault(
        "a training step joins its documents, with a window",
        GRADIENTS,
        _join_segments,
        "documents.alibi/window/hot",
    ),
)
