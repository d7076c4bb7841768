"""Nothing in a step of training is an operation for whose result CUDA's host would wait.

Seen below Python, where also those are that a mask or a `nonzero` makes: their shapes are numbers
on the device.
"""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hermes.interface import Options, TrainState
from hermes.numerics.lora import init_adapters
from hermes.recipe import Lora, LossScaling, OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec
from tests.backends.support import make_batch, make_learner, make_spec, make_weights
from tests.backends.torch.attention_support import make_packed_batch

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
SCALED = Recipe(loss_scaling=LossScaling(2.0**10))
RECIPES = {
    "AdamW": Recipe(grad_clip=1.0),
    "AdamW in float8, average": Recipe(optimizer=OptimizerRecipe(moments="float8"), ema=0.9),
    "AdamW rounded at random": Recipe(optimizer=OptimizerRecipe(moments="bfloat16-stochastic")),
    "z-loss": Recipe(z_loss=1e-3),
    "frozen": Recipe(freeze_layers=1),
    "LoRA": Recipe(lora=Lora(rank=2, dropout=0.1)),
    "DoRA, rows of tokens": Recipe(lora=Lora(rank=2, dora=True, token_ids=(3, 20))),
    "float16": SCALED,
    **{
        name: Recipe(optimizer=OptimizerRecipe(name))
        for name in ("muon", "normuon", "adafactor", "lion")
    },
}


class Waits(TorchDispatchMode):
    """The operations whose results CUDA's host would wait for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_masked = function in (aten.index.Tensor, aten.index_put_.default) and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
        )
        if function in READS or is_masked:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_step_has_no_operation_that_the_host_waits_for(name, packed):
    attention = AttentionSpec(4, 2, dropout=0.1)
    spec, recipe = make_spec(attention=attention, dropout=0.1), RECIPES[name]
    spec = dataclasses.replace(spec, max_seq_len=40)
    weights = make_weights(spec)
    adapters = init_adapters(spec, recipe.lora, 0, weights) if recipe.lora else {}
    options = Options("cpu", precision="float16" if name == "float16" else "float32")
    state = TrainState({**weights, **adapters}, {}, {}, 0)
    learner = make_learner("torch", spec, recipe, options, state)
    batch = make_packed_batch(A=2, T=40) if packed else make_batch(A=2, T=40)
    batch = dataclasses.replace(batch, measures_noise=True, loss_limit=1e9)
    learner.step(batch, 1e-3)
    with Waits() as waits:
        report = learner.step(batch, 1e-3)
    assert waits.found == []
    with Waits() as waits:
        float(report.loss)
    assert waits.found == ["aten._local_scalar_dense.default"]


def test_what_the_host_would_wait_for_is_seen():
    x = torch.arange(4.0)
    with Waits() as waits:
        x[x > 1], x.nonzero(), bool(x[0])
        x[x > 1] = 0.0
    assert len(waits.found) == 4
