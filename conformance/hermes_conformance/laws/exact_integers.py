"""Cases whose every intermediate number is exact, so that any backend gets the same bits.

Small-integer weights, no norm, relu, and attention that is saturated: a gap of one between scores
is 1024, and exp(-1024) is 0 even in float64. What is left are matrix products, head and mask
layout, and indexing: mistakes there are whole numbers, found with no tolerance at all.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache

import numpy as np

from hermes.numerics.params import list_parameters
from hermes.numerics.randomness import draw_bits
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    Learned,
    ModelSpec,
    NoNorm,
    NoPositions,
    OutputSpec,
)
from hermes_conformance.cases.case import SEED, Case, Weights
from hermes_conformance.oracle.tracing_arrays import rounded, wrap
from hermes_numpy.backend import BACKEND as ORACLE

SCALE = 1024.0
DRAWS = 400


def exact_in(precision: str) -> Callable[[Case], Weights]:
    """Weights of 0 and +-1: the first draw of which every step is exact in that format.

    Which draw that is, is a matter of the oracle alone.
    """

    def make(case: Case) -> Weights:
        for number in range(DRAWS):
            params = {
                name: _ternary(f"conformance/{case.name}/{number}/{name}", entry.shape)
                for name, entry in list_parameters(case.spec).items()
            }
            true = ORACLE.build(case.spec, params).logits(case.tokens, case.segments)
            narrow = {name: wrap(value, rounded(precision)) for name, value in params.items()}
            same = ORACLE.build(case.spec, narrow).logits(case.tokens, case.segments)
            if np.array_equal(true, np.asarray(same)) and np.mean(true != 0) > 0.5:
                return params
        raise AssertionError(f"{case.name}: no draw is exact in {precision}; choose other sizes")

    return make


def _ternary(purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """-1, 0, 0, 1 with equal chance; float32."""
    words = draw_bits(SEED, purpose, int(np.prod(shape))) % np.uint64(4)
    return np.array([-1, 0, 0, 1], np.float32)[words.astype(np.int64)].reshape(shape)


def _spec(heads: tuple[int, int, int] = (2, 1, 4), layers: int = 1, **parts) -> ModelSpec:
    """A model with that (H, K, D). parts: fields of attention, block and model by their names."""

    def given(spec):
        return {f.name: parts[f.name] for f in fields(spec) if f.name in parts}

    plain = AttentionSpec(*heads, position_encoding=NoPositions(), scale=SCALE)
    attention = replace(plain, **given(AttentionSpec))
    block = replace(BlockSpec(attention, norm=NoNorm()), **given(BlockSpec))
    model = ModelSpec((block,), "model", "", 17, 16, hidden_size=8, num_layers=layers)
    return replace(model, **given(ModelSpec))


@cache
def integer_cases(precision: str = "float32") -> tuple[Case, ...]:
    """One for each thing that can be laid out wrongly. In bfloat16 integers end at 256."""
    narrow = precision != "float32"
    small = FfnSpec(4, "relu") if narrow else FfnSpec(12, "relu")
    specs = {
        "grouped heads": _spec((4, 2, 2), ffn=small),
        "one key head": _spec((4, 1, 3), ffn=small),
        "a key head each": _spec((3, 3, 4), ffn=small),
        "window": _spec(window_size=2, ffn=small),
        "both ways": _spec(causal=False, ffn=small),
        "learned positions": _spec(position_encoding=Learned(), ffn=small),
        "biases": _spec(bias="all", ffn=replace(small, bias=True)),
        "parallel": _spec(parallel=True, ffn=small),
        "gate": _spec(ffn=replace(small, gate=True)),
        "relu2": _spec(ffn=replace(small, activation="relu2")),
        "two layers": _spec(layers=2, ffn=small),
        "tied, scaled, biased": _spec(
            ffn=small,
            embeddings=EmbeddingsSpec(tie_weights=True, scale=2.0),
            output=OutputSpec(bias=True),
        ),
    }
    if narrow:
        for name in ("gate", "relu2", "two layers"):
            del specs[name]
    made = [(name, spec, False) for name, spec in specs.items()]
    made.append(("packed", specs["grouped heads"], True))
    return tuple(
        Case(f"integer.{name}/{precision}", spec, exact_in(precision), T=6, packed=packed)
        for name, spec, packed in made
    )
