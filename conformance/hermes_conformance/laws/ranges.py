"""L1 and L2 of elementary functions over all of their range, element by element.

Weights that are drawn give a function inputs of a few units, and an error is measured relative to a
whole tensor. What is computed in another way further out (a tail of erf, a clamp before exp) is
then not looked at, or vanishes beside the largest element. Here a model so small that its logits
are one function's values gets inputs up to where the function no longer changes, and each is judged
by itself.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from hermes.interface import Batch
from hermes.numerics.params import list_parameters
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    FfnSpec,
    ModelSpec,
    NoNorm,
    NoPositions,
    OutputSpec,
)
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_absolute
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle import complex_step

# Steps that no power of two divides, so that no input is a kink of a function, and where the last
# formula of erf begins; then sparser ones, up to where exp(-x) still has a float64. Both signs.
_FAR = [5.66, 12.3, 17.7, 39.9, 79.3, 81.7, 97.1, 301.3]
_HALF = np.sort(np.concatenate([np.arange(1, 64) * 0.151, _FAR]))
INPUTS = np.concatenate([-_HALF[::-1], _HALF]).astype(np.float32)
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
CAP = 5.0
MANY = 8  # times all inputs at once: a backend may compute few elements in another way
SMALL_GAIN = 2.0**-15  # a head of this size leaves all logits within a few units, and every bit


def list_functions() -> dict[str, ModelSpec]:
    """A model without norms and residuals for each function, whose logit 0 is that of the input."""
    gate = AttentionSpec(1, head_dim=2, position_encoding=NoPositions(), output_gate=True)
    plain = replace(gate, output_gate=False)
    clamped = FfnSpec(2, "swiglu", limit=7.0, alpha=1.702)
    names = ("gelu", "gelu_tanh", "silu", "relu", "relu2")
    return {
        **{name: _make_spec(plain, FfnSpec(2, name)) for name in names},
        "clamped swiglu": _make_spec(plain, clamped),
        "output gate": _make_spec(gate, None),
        "soft cap": _make_spec(plain, None, OutputSpec(softcap=CAP)),
    }


def _make_spec(
    attention: AttentionSpec, ffn: FfnSpec | None, output: OutputSpec | None = None
) -> ModelSpec:
    return ModelSpec(
        blocks=(BlockSpec(attention, ffn, NoNorm(), residual=False),),
        vocab_size=len(INPUTS),
        max_seq_len=8,
        hidden_size=2,
        num_layers=1,
        output=output or OutputSpec(),
    )


def _get_gain(case: Case) -> float:
    """What the head multiplies by; a soft cap comes after it."""
    return 1.0 if case.spec.output.softcap else SMALL_GAIN


def make_identity(case: Case) -> Weights:
    """Matrices that hand an input on to logit 0, whose token's embedding it is."""
    weights = {n: np.zeros(t.shape, np.float32) for n, t in list_parameters(case.spec).items()}
    for name, value in weights.items():
        if value.shape == (2, 2):
            weights[name] = np.eye(2, dtype=np.float32)
    weights[EMBEDDING][:, 0] = INPUTS
    weights[HEAD][0, 0] = _get_gain(case)
    return weights


@cache
def make_cases() -> tuple[Case, ...]:
    """A case for each function. Each input is a row of its own, so it attends to itself alone."""
    N = len(INPUTS)
    tokens = np.arange(N, dtype=np.int32)[None, :, None]
    rows = np.arange(N, dtype=np.uint32)[None]
    batch = Batch(tokens, np.zeros_like(tokens), rows)
    return tuple(
        Case(f"range.{name}/identity", spec, make_identity, 1, N, 1, fixed_batch=batch)
        for name, spec in list_functions().items()
    )


is_of_ranges = match_names("range.")


def _compute_values(case: Case, logits: np.ndarray) -> np.ndarray:
    """The function's values, from the logits of a pass. (N, 1, V) -> (N,)"""
    return np.asarray(logits[:, 0, 0], np.float64) / _get_gain(case)


def _compute_expected(case: Case, backends: Backends) -> tuple[np.ndarray, np.ndarray]:
    """The oracle's values, and the size that each is rounded relative to: of it or its input."""
    expected = _compute_values(case, backends.oracle.compute_logits(case))
    return expected, np.maximum(np.abs(INPUTS), np.abs(expected))


def values(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Each value is the oracle's."""
    expected, sizes = _compute_expected(case, backends)
    got = _compute_values(case, backends.subject.compute_logits(case))
    yield compare_absolute("values", got / sizes, expected / sizes, tolerance.RANGE_64)


def slopes(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Each derivative is the oracle's, relative to its own size, or to 1 where it is smaller."""
    _, grads = backends.subject.compute_grads(case)
    got = np.asarray(grads[EMBEDDING])[:, 0]
    expected = np.zeros(len(INPUTS))
    for i in range(len(INPUTS)):
        direction = np.zeros((len(INPUTS), 2))
        direction[i, 0] = 1.0
        batch = case.batch
        alone = Batch(batch.tokens[:, [i]], batch.targets[:, [i]], batch.rows[:, [i]])
        _, slope = complex_step.compute_loss_and_slope(
            case.spec, case.params, {EMBEDDING: direction}, alone
        )
        expected[i] = slope / len(INPUTS)
    sizes = np.maximum(np.abs(expected), _get_gain(case) / len(INPUTS))
    yield compare_absolute("slopes", got / sizes, expected / sizes, tolerance.RANGE_SLOPE_64)


def values_float32(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Each float32 value is the oracle's, by exact functions and by fast ones, of few and many."""
    expected, sizes = _compute_expected(case, backends)
    for exact in (False, True):
        logits = backends.subject.compute_logits(case, "float32", exact=exact)
        got = _compute_values(case, logits)
        functions = "exact" if exact else "fast"
        yield compare_absolute(
            f"values, {functions} functions", got / sizes, expected / sizes, tolerance.RANGE_32
        )
    model = backends.subject.build_model(case, "float32")
    many = _compute_values(case, model.logits(np.tile(case.tokens, (MANY, 1))))
    yield compare_absolute(
        "values, fast functions of many",
        many.reshape(MANY, -1) / sizes,
        np.tile(expected / sizes, (MANY, 1)),
        tolerance.RANGE_32,
    )


LAWS_64 = (
    Law(
        "L1",
        "range",
        "elementary functions agree over all of their range, value by value",
        tolerance.RANGE_64,
        values,
        is_of_ranges,
    ),
    Law(
        "L1",
        "range-slopes",
        "their derivatives agree, too",
        tolerance.RANGE_SLOPE_64,
        slopes,
        is_of_ranges,
        "learner",
    ),
)
LAWS_32 = (
    Law(
        "L2",
        "range",
        "elementary functions in float32 err by roundings of their own size over all their range",
        tolerance.RANGE_32,
        values_float32,
        is_of_ranges,
        precision="float32",
    ),
)
