"""Cases whose intermediate numbers are all exact, so that every backend gets the same bits.

Small-integer weights, no norms, relu, and saturated attention: scores differ by at least 1024, and
exp(-1024) is 0 even in float64. That leaves matrix products, the layout of heads and masks, and
indexing: mistakes there are whole numbers and are found with no tolerance at all.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

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
from hermes_conformance.oracle.tracing_arrays import make_rounding_rule, wrap
from hermes_numpy.backend import BACKEND as ORACLE

SCALE = 1024.0
DRAWS = 400


def draw_exact_in(precision: str) -> Callable[[Case], Weights]:
    """A function that draws weights of -1, 0 and 1 with which a case is exact in the format.

    It takes the first draw whose logits the oracle computes alike with and without rounding every
    intermediate number, so the choice depends on no backend.
    """

    def draw(case: Case) -> Weights:
        for number in range(DRAWS):
            params = {
                name: _draw_ternary(f"conformance/{case.name}/{number}/{name}", entry.shape)
                for name, entry in list_parameters(case.spec).items()
            }
            rule = make_rounding_rule(precision)
            traced = {name: wrap(value, rule) for name, value in params.items()}
            exact, rounded = (
                np.asarray(ORACLE.build(case.spec, weights).logits(case.tokens, case.segments))
                for weights in (params, traced)
            )
            if np.array_equal(exact, rounded) and np.mean(exact != 0) > 0.5:
                return params
        raise AssertionError(f"{case.name}: no draw is exact in {precision}; choose other sizes")

    return draw


def _draw_ternary(purpose: str, shape: tuple[int, ...]) -> np.ndarray:
    """-1 and 1 with a chance of a quarter each, otherwise 0; float32."""
    words = draw_bits(SEED, purpose, int(np.prod(shape))) % np.uint64(4)
    return np.array([-1, 0, 0, 1], np.float32)[words.astype(np.int64)].reshape(shape)


def _make_spec(heads: tuple[int, int, int] = (2, 1, 4), layers: int = 1, **parts: Any) -> ModelSpec:
    """A model with heads (H, K, D). parts: fields of attention, block and model by their names."""

    def select(spec: type) -> dict[str, Any]:
        return {f.name: parts[f.name] for f in fields(spec) if f.name in parts}

    plain = AttentionSpec(*heads, position_encoding=NoPositions(), scale=SCALE)
    attention = replace(plain, **select(AttentionSpec))
    block = replace(BlockSpec(attention, norm=NoNorm()), **select(BlockSpec))
    model = ModelSpec((block,), "model", "", 17, 16, hidden_size=8, num_layers=layers)
    return replace(model, **select(ModelSpec))


@cache
def make_integer_cases(precision: str = "float32") -> tuple[Case, ...]:
    """A case for each part whose layout can be wrong. In bfloat16 integers are exact up to 256."""
    narrow = precision != "float32"
    small = FfnSpec(4, "relu") if narrow else FfnSpec(12, "relu")
    specs = {
        "grouped heads": _make_spec((4, 2, 2), ffn=small),
        "one key head": _make_spec((4, 1, 3), ffn=small),
        "a key head each": _make_spec((3, 3, 4), ffn=small),
        "window": _make_spec(window_size=2, ffn=small),
        "both ways": _make_spec(causal=False, ffn=small),
        "learned positions": _make_spec(position_encoding=Learned(), ffn=small),
        "biases": _make_spec(bias="all", ffn=replace(small, bias=True)),
        "parallel": _make_spec(parallel=True, ffn=small),
        "gate": _make_spec(ffn=replace(small, gate=True)),
        "relu2": _make_spec(ffn=replace(small, activation="relu2")),
        "two layers": _make_spec(layers=2, ffn=small),
        "tied, scaled, biased": _make_spec(
            ffn=small,
            embeddings=EmbeddingsSpec(tie_weights=True, scale=2.0),
            output=OutputSpec(bias=True),
        ),
    }
    if narrow:
        for name in ("gate", "relu2", "two layers"):
            del specs[name]
    parts = [(name, spec, False) for name, spec in specs.items()]
    parts.append(("packed", specs["grouped heads"], True))
    return tuple(
        Case(f"integer.{name}/{precision}", spec, draw_exact_in(precision), T=6, packed=packed)
        for name, spec, packed in parts
    )
