"""Faults of paths that only production takes: caches in bfloat16, slices, compiled learners."""

from unittest import mock

import numpy as np

from hermes_conformance.faults.fault import Fault, Inside
from hermes_conformance.faults.kernels import sloped

FAST = ("FAST", "PLAIN")


def _short(dtype) -> bool:
    return str(dtype).endswith("bfloat16")


def _early_in_bfloat16(inside: Inside) -> None:
    """What is read after the first read of a bfloat16 cache is turned as one place before."""

    def make(original):
        def wrong(self, spec, T):
            if not (_short(self.dtype) and self.cache and self.offset):
                return original(self, spec, T)
            tables = self.tables.angles[spec.position_encoding, spec.rotary_size]
            return tuple(table[self.offset - 1 : self.offset - 1 + T] for table in tables)

        return wrong

    inside.method("context", "Context", "angles", make)


def _slices_reversed(inside: Inside) -> None:
    """Of what is evaluated in several slices, the last come first."""
    sliced = inside.module("chunked_loss")
    original = sliced.score_groups

    def make(score):
        def wrong(*given):
            with mock.patch.object(sliced, "score_groups", lambda *of: reversed([*original(*of)])):
                return score(*given)

        return wrong

    inside.table("logprobs", make, FAST)


def _late_where_some_count(inside: Inside) -> None:
    def make(original):
        def wrong(module, x, targets, at):
            found = original(module, x, targets, at)
            if at is None:
                return found
            late = np.roll(np.arange(targets.shape[1]), 1)
            return inside.taken(found.swapaxes(0, 1), late).swapaxes(0, 1)

        return wrong

    inside.table("logprobs", make, FAST)


def _second_slice_steeper(inside: Inside) -> None:
    """Of a pair that takes several slices, all but the first have twice their slopes."""

    def make(original):
        def wrong(self, number, held):
            found = original(self, number, held)
            begin, end = self.groups[number][0]
            found[end - begin :] = 2 * found[end - begin :]
            return found

        return wrong

    inside.method("chunked_loss", "PairGroups", "expand_to_tokens", make)


def _linear(change):
    """change(original, self, x, rows) in the place of a product of so many rows."""

    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, x):
                return change(original, self, x, int(np.prod(x.shape[:-1])))

            return wrong

        inside.forward("Linear", make)

    return plant


def _biasless_row(original, self, x, rows):
    kept = self.bias
    try:
        self.bias = None if rows == 1 else kept
        return original(self, x)
    finally:
        self.bias = kept


def _wrong_when_tall(original, self, x, rows):
    found = original(self, x)
    return found * 1.01 if rows > 64 else found


def _half_before(inside: Inside) -> None:
    """In float32, what lies before a block that is recomputed has half its gradient through it."""

    def make(original):
        def wrong(self, layer, x):
            if not self.recompute or str(self.dtype).endswith("float64"):
                return original(self, layer, x)
            return layer(sloped(inside, 0.5, x), self)

        return wrong

    inside.method("context", "Context", "run_block", make)


def _fault(name, law, case, plant, only=None):
    return Fault(name, "production", law, case, plant, only)


FAULTS = (
    _fault(
        "rope in a bfloat16 cache is a place early",
        "L3/decoding",
        "default/hot",
        _early_in_bfloat16,
    ),
    _fault(
        "the second slice of a pair has twice its slopes",
        "L2/gradients",
        "slices.pairs/hot",
        _second_slice_steeper,
    ),
    _fault(
        "evaluated slices come last first",
        "L2/logprobs",
        "slices.next token/hot",
        _slices_reversed,
    ),
    _fault(
        "log-probabilities are a place late where some targets do not count",
        "L2/logprobs",
        "default/hot",
        _late_where_some_count,
    ),
    _fault(
        "a product of one row has no bias",
        "L2/decoding",
        "decoding.one row/hot",
        _linear(_biasless_row),
    ),
    _fault(
        "a product of one row has no bias, in bfloat16",
        "L3/decoding",
        "decoding.one row/hot",
        _linear(_biasless_row),
    ),
    _fault(
        "a product of more than 64 rows is a hundredth off",
        "L2/decoding",
        "decoding.one row/hot",
        _linear(_wrong_when_tall),
    ),
    _fault(
        "recomputing in float32 halves the gradient of what lies before",
        "L4/checkpointing-float32",
        "train.dropout/fresh",
        _half_before,
    ),
)
