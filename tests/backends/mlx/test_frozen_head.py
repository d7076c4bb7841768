"""A frozen head: its gradient is not computed, and no other number changes."""

import numpy as np

from hermes import mal
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.lora import init_adapters
from hermes.numerics.params import init_weights
from hermes.recipe import Lora, Recipe
from tests.mlx_memory import count_held_bytes, measure_peak
from tests.model_info.test_activations import make_batch, make_spec


def make_learner(spec):
    lora = Lora(rank=2)
    weights = dict(init_weights(spec, 0))
    state = TrainState(weights | dict(init_adapters(spec, lora, 0, weights)), {}, {}, 0)
    return find_backend("mlx").learner(spec, state, Recipe(lora=lora), Options(device="cpu"))


def measure_grads(learner, batch):
    """Loss and gradients, and the bytes at their peak."""
    loss, grads = learner.grads(batch)
    before = count_held_bytes()
    return loss, grads, measure_peak(lambda: learner.grads(batch)) - before


def test_a_frozen_head_takes_no_memory_for_a_gradient_and_changes_no_other():
    spec = mal.edit_all(make_spec(1), {"vocab_size": "20000", "hidden_size": "128"})
    frozen, computed = make_learner(spec), make_learner(spec)
    assert not frozen.runtime.module.lm_head.trains_weight
    computed.runtime.module.lm_head.trains_weight = True
    batch = make_batch(spec, 1, 1)
    (loss, grads, peak), (other, same, more) = (
        measure_grads(learner, batch) for learner in (frozen, computed)
    )
    assert peak + 4 * 20_000 * 128 <= more
    assert loss == other
    for name in grads:
        np.testing.assert_array_equal(grads[name], same[name])
