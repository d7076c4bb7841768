"""Faults of elementary functions that show on large inputs only."""

import math

from hermes_conformance.faults.fault import Fault, Plant
from hermes_conformance.faults.patcher import FAST_TABLES, TABLES, Function, Patcher

MANY = 1024  # elements, more than a case of the law has once
FAR = 6.0  # beyond it gelu and silu are their limits to 8 and 2 digits


def _change_far(
    entry: str, change: Function, tables: tuple[str, ...] = TABLES, limit: float = FAR
) -> Plant:
    """Where |x| is above `limit`, an activation is change(patcher, original, x)."""

    def plant(patcher: Patcher) -> None:
        def wrap(functions):
            original = functions[entry]

            def faulty(x):
                far = (abs(x) > limit) * 1.0
                return original(x) * (1 - far) + change(patcher, original, x) * far

            return {**functions, entry: faulty}

        patcher.wrap_table("activations", wrap, tables)

    return plant


def _round_many(patcher: Patcher) -> None:
    """gelu_tanh of many elements has bfloat16's digits."""

    def wrap(functions):
        original = functions["gelu_tanh"]

        def faulty(x):
            is_many = math.prod(x.shape) > MANY
            return patcher.round_to(original(x)) if is_many else original(x)

        return {**functions, "gelu_tanh": faulty}

    patcher.wrap_table("activations", wrap, FAST_TABLES)


def _make_fault(name: str, law: str, function: str, plant: Plant) -> Fault:
    return Fault(name, "forward", law, f"range.{function}/identity", plant)


FAULTS = (
    _make_fault(
        "erf is off by 1e-12 in its tail",
        "L1/range",
        "gelu",
        _change_far("gelu", lambda patcher, original, x: original(x) + 5e-13 * x),
    ),
    _make_fault(
        "silu stands still beyond a clamp",
        "L1/range",
        "silu",
        _change_far("silu", lambda patcher, original, x: original(x) - 1e-13 * x, limit=30.0),
    ),
    _make_fault(
        "gelu has no slope in its tail",
        "L1/range-slopes",
        "gelu",
        _change_far("gelu", lambda patcher, original, x: patcher.detach(original(x))),
    ),
    _make_fault(
        "gelu in float32 is bfloat16's in its tail",
        "L2/range",
        "gelu",
        _change_far(
            "gelu", lambda patcher, original, x: patcher.round_to(original(x)), FAST_TABLES
        ),
    ),
    _make_fault(
        "gelu_tanh of many elements is bfloat16's in float32",
        "L2/range",
        "gelu_tanh",
        _round_many,
    ),
)
