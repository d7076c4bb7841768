"""The loss as the compiler gets it: nothing is scattered, and its gradients are the eager ones."""

import dataclasses

import numpy as np
import pytest

from hermes.interface import Options
from hermes.recipe import Recipe
from hermes.spec import OutputSpec
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec
from tests.backends.torch.attention_support import Graphs

COMPILED = Options(device="cpu", compile=True)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_a_compiled_loss_scatters_nothing_and_has_the_gradients_of_an_eager_one(
    monkeypatch, z_loss
):
    model = dataclasses.replace(make_spec(layers=1), output=OutputSpec(softcap=4.0))
    recipe, batch = Recipe(z_loss=z_loss), make_batch(counted={(0, 1): 4})
    loss, grads = make_learner("torch", model, recipe, FLOAT32).grads(batch)
    graphs = Graphs(monkeypatch)
    found, compiled = make_learner("torch", model, recipe, COMPILED).grads(batch)
    assert (len(graphs.forward), len(graphs.backward)) == (1, 1)
    assert graphs.count("scatter") == 0
    assert found == pytest.approx(loss, rel=1e-6)
    for name, grad in grads.items():
        assert np.linalg.norm(compiled[name] - grad) < 3e-6 * np.linalg.norm(grad), name
