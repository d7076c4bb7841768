"""Bounds: each has a reason and a measurement, and there are none elsewhere."""

import ast
from pathlib import Path

import numpy as np

import hermes_conformance.laws as laws
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import rms


def test_every_bound_has_a_reason_and_a_measurement():
    bounds = [value for value in vars(tolerance).values() if isinstance(value, tolerance.Bound)]
    assert len(bounds) > 20
    for bound in bounds:
        assert all(len(text) > 1 for text in (bound.unit, bound.why, bound.measured))
        assert bound.limit >= 0


def test_no_bound_stands_anywhere_but_in_tolerance():
    """A number such as 1e-7 in a law would be one, and so would a Bound of its own."""
    for path in Path(laws.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, float):
                small = 0 < abs(node.value) < 1e-4
                assert not small, f"{path.name}:{node.lineno} has {node.value}"
            if isinstance(node, ast.Call):
                made = ast.unparse(node.func) in ("Bound", "tolerance.Bound")
                assert not made, f"{path.name}:{node.lineno} makes a bound"


def test_sums_from_left_to_right_err_by_the_sigma_that_their_bound_is_made_of():
    rng = np.random.default_rng(20)
    terms = rng.uniform(0.5, 1.5, (200, 30_000)).astype(np.float32)
    left_to_right = np.cumsum(terms, axis=1)[:, -1]
    errors = left_to_right / terms.sum(axis=1, dtype=np.float64) - 1
    bound = tolerance.bound_norm_32(terms.shape[1])
    assert 0.5 < rms(errors) / (bound.limit / 12) < 1.5


def test_the_bound_of_norms_grows_with_long_sums_only():
    assert tolerance.bound_norm_32(1_000).limit == tolerance.NORM_32.limit
    assert 1.2e-4 < tolerance.bound_norm_32(300_000).limit < 1.4e-4
