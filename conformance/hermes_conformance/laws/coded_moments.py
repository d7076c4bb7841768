"""L4 of moments in 8 bits: what a step makes of numbers of any size, to the bit.

Other laws compare such moments by the distance of their neighbours, and with moments of ordinary
sizes. Here they reach from the least number that the format has to large ones, and nothing but the
rounding decides: the tokens of most rows of the embedding are not in the batch, so that these rows
have a gradient of exactly 0, and three quarters of a number of 4 bits are exact in every type.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hermes.interface import TrainState
from hermes.numerics.moment_format import FORMATS
from hermes.recipe import OptimizerRecipe
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import make_spec
from hermes_conformance.cases.weights import draw_fresh
from hermes_conformance.measure.compare import Measurement, compare_bits
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import apply_oracle_update
from hermes_numpy.moment_format import round_to_float8

EMBEDDING = "model.embed_tokens.weight"
WORDS = 200  # of which the batch has at most 40
SHARE = 0.75  # of a moment that a step keeps
SIZES = (0, -20, 40, -90)  # exponents of the largest number of a row, in turn
LEAST_SIZES = (-126, -128)  # where a block's exponent is the least one
ZEROS = 5  # each so-many-th number is 0


@cache
def make_cases() -> tuple[Case, ...]:
    """A run with moments in 8 bits, in a vocabulary of which the batch has few words."""
    rule = OptimizerRecipe(beta1=SHARE, beta2=SHARE, moments="float8")
    recipe = replace(RECIPE, optimizer=rule)
    return (Case("moments.float8/fresh", make_spec(vocab_size=WORDS), draw_fresh, recipe=recipe),)


def _draw_moments(case: Case, slot: str, sizes: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers that have a code, over all of a block's range, the largest of each row 2^size."""
    shape = WORDS, case.spec.hidden_size
    mantissas = 1 + case.draw_integers(f"mantissas {slot}", WORDS * shape[1], 8) / 8
    below = case.draw_integers(f"exponents {slot}", WORDS * shape[1], 18)
    x = (mantissas * np.exp2(-below)).reshape(shape)
    x[:, 0] = 1.0
    if FORMATS[slot].has_sign:
        x[:, 1::2] *= -1
    x[:, ::ZEROS][:, 1:] = 0
    x *= np.exp2(np.resize(sizes, WORDS))[:, None]
    return round_to_float8(x, slot, 0).astype(np.float32)


def moments(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Moments of rows without a gradient are the oracle's after a step, the sign of 0 included.

    Numbers below 2^-126 are judged on a CPU alone: a GPU may take them for 0.
    """
    subject = backends.subject
    sizes = (*SIZES, *LEAST_SIZES) if subject.device_name == "cpu" else SIZES
    slots = {slot: {EMBEDDING: _draw_moments(case, slot, sizes)} for slot in FORMATS}
    state = TrainState.from_slots(case.params, slots, 1)
    learner = subject.backend.learner(
        case.spec, state, case.recipe, subject.make_options("float32")
    )
    nothing = {EMBEDDING: np.zeros_like(case.params[EMBEDDING])}
    expected, _ = apply_oracle_update(case, state, nothing, 1e-3)
    float(learner.step(case.batch, 1e-3).loss)
    rows = np.setdiff1d(np.arange(WORDS), case.batch.tokens)
    after = learner.state()
    for slot in FORMATS:
        got, wanted = (
            np.asarray(one.slots[slot][EMBEDDING], np.float32)[rows].view(np.int32)
            for one in (after, expected)
        )
        yield compare_bits(f"bits of {slot}", got, wanted, EXACT)


LAWS = (
    Law(
        "L4",
        "coded-moments",
        "moments in 8 bits of any size are the oracle's to the bit",
        EXACT,
        moments,
        match_names("moments."),
        "learner",
        "float32",
    ),
)
