"""Frozen matrices that a learner holds in the type of products: L0."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import TrainState
from hermes.numerics.params import list_unfrozen
from hermes_conformance.cases.case import Case
from hermes_conformance.measure.compare import Measurement, compare_bits, compare_values
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT


def check_frozen_weights(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Under bfloat16 frozen weights come back with all their bits, and change no gradient's.

    Beside a learner that keeps them in float32, since its weights cannot be read again.
    """
    subject, options = backends.subject, backends.subject.make_options("bfloat16")
    recipe = replace(case.recipe, freeze_layers=1)
    given = TrainState(case.params, {}, {}, 0)
    states = given, replace(given, can_reread=True)
    kept, short = (subject.backend.learner(case.spec, s, recipe, options) for s in states)
    (loss, grads), (other_loss, others) = kept.grads(case.batch), short.grads(case.batch)
    yield compare_values("loss", other_loss, loss, EXACT)
    for name in grads:
        yield compare_bits(f"gradient of {name}", others[name], np.array(grads[name]), EXACT)
    float(short.step(case.batch, 1e-2).loss)
    state, trained = short.state(), set(list_unfrozen(case.spec, 1))
    for name, value in case.params.items():
        if name not in trained:
            yield compare_bits(f"frozen {name}", state.params[name], value, EXACT)
