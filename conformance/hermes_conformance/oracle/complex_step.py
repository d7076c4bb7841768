"""Derivatives of the oracle, which has none of its own: one complex step per direction.

The step is so small (2^-300) that nothing is lost to it: derivatives come out as exact as the loss.
Five-point differences, which keep ten digits at best, check this file in the suite's own tests.
"""

import numpy as np

from hermes.interface import Batch
from hermes.numerics.lora import find_adapted_paths, list_trainable
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure.compare import rms
from hermes_conformance.oracle.tracing_arrays import TINY, Rule, dual
from hermes_numpy.backend import BACKEND as ORACLE
from hermes_numpy.lora import merge_adapter

Vectors = dict[str, np.ndarray]
Dropout = tuple[int, int] | None


def loss_and_slope(
    spec: ModelSpec,
    params: Weights,
    toward: Weights,
    batch: Batch,
    dropout: Dropout = None,
    recipe: Recipe | None = None,
    rules: tuple[Rule | None, ...] = (),
) -> tuple[float, float]:
    """The oracle's loss at `params`, and d loss(params + s toward) / ds at s = 0.

    dropout: (seed, update) or None. recipe: whose adapters are among the params. rules: how a
    shorter format errs, of every result and of what goes into products.
    """
    moved = {name: dual(value, toward.get(name), *rules) for name, value in params.items()}
    if recipe is not None and recipe.lora is not None:
        for path in find_adapted_paths(spec, recipe.lora):
            a, b = moved.pop(f"{path}.lora_A.weight"), moved.pop(f"{path}.lora_B.weight")
            moved[f"{path}.weight"] = merge_adapter(moved[f"{path}.weight"], a, b, recipe.lora)
    mean = complex(ORACLE.build(spec, moved).compute_loss(batch, dropout))
    return mean.real, mean.imag / TINY


def direction(case: Case, number: int) -> Vectors:
    """A random direction over all trained tensors, each part as large as its tensor is."""
    made = {}
    for name in list_trainable(case.spec, case.recipe):
        value = case.params[name]
        noise = case.normals(f"direction {number}/{name}", value.shape)
        made[name] = noise.astype(np.float64) * (rms(value) or 0.02)
    return made


def gradient(
    spec: ModelSpec, params: Weights, batch: Batch, dropout: Dropout = None
) -> tuple[float, Vectors]:
    """The oracle's loss and whole gradient, an element at a time: for the smallest models only."""
    loss, made = 0.0, {}
    for name, value in params.items():
        made[name] = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            along = np.zeros(value.shape)
            along[index] = 1.0
            loss, made[name][index] = loss_and_slope(spec, params, {name: along}, batch, dropout)
    return loss, made


def natural_size(grads: Weights, toward: Weights) -> float:
    """How large <grads, toward> is when its terms have random signs."""
    return float(np.sqrt(sum(np.square(grads[name] * toward[name]).sum() for name in toward)))
