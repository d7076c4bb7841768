"""Derivatives of the oracle, which has none of its own: one complex step per direction.

The step is so small (2^-300) that no digit is lost to it: a derivative is as exact as the loss.
The suite's own tests check this file with five-point differences, which keep ten digits at best.
Source: Squire and Trapp 1998, "Using complex variables to estimate derivatives of real functions".
"""

from dataclasses import replace

import numpy as np

from hermes.interface import Batch
from hermes.numerics.lora import (
    find_adapted_paths,
    find_token_paths,
    list_adapter_tensors,
    list_trainable,
)
from hermes.numerics.merging import MAGNITUDE, TOKEN_ROWS
from hermes.recipe import Lora, Recipe
from hermes.spec import ModelSpec
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure.compare import rms
from hermes_conformance.oracle.tracing_arrays import TINY, Rule, make_dual
from hermes_numpy.backend import BACKEND as ORACLE
from hermes_numpy.lora import measure_rows, merge_adapter, put_rows, scale_rows

Arrays = dict[str, np.ndarray]
Dropout = tuple[int, int] | None


def compute_loss_and_slope(
    spec: ModelSpec,
    params: Weights,
    direction: Weights,
    batch: Batch,
    dropout: Dropout = None,
    recipe: Recipe | None = None,
    rules: tuple[Rule | None, ...] = (),
) -> tuple[float, float]:
    """The oracle's loss at `params`, and d loss(params + s direction) / ds at s = 0.

    dropout: (seed, step) or None. recipe: of the adapters that are among the params, and of the
    z-loss. rules: how a
    shorter format rounds results and the inputs of matrix products.
    """
    moved: Arrays = {
        name: make_dual(value, direction.get(name), *rules) for name, value in params.items()
    }
    lora = None if recipe is None else recipe.lora
    adapters: Arrays = {}
    if lora is not None and lora.dropout:
        names = list_adapter_tensors(spec, replace(lora, token_ids=()))
        adapters = {name: moved.pop(name) for name in names}
        _put_token_rows(spec, moved, lora)
    elif lora is not None:
        _merge_adapters(spec, moved, lora)
    model = ORACLE.build(spec, moved)
    if lora is not None and adapters:
        model.adapt(adapters, lora)
    z_weight = 0.0 if recipe is None else recipe.z_loss
    mean = complex(model.compute_loss(batch, dropout, z_weight))
    return mean.real, mean.imag / TINY


def _merge_adapters(spec: ModelSpec, moved: Arrays, lora: Lora) -> None:
    """Put the adapters among the tensors into the weights, with their derivatives, in place."""
    for path in find_adapted_paths(spec, lora):
        a, b = moved.pop(f"{path}.lora_A.weight"), moved.pop(f"{path}.lora_B.weight")
        merged = merge_adapter(moved[f"{path}.weight"], a, b, lora)
        if lora.dora:
            # Of the real part: the lengths of rows are constants to the derivative.
            length = measure_rows(np.asarray(merged).real)
            merged = scale_rows(merged, moved.pop(f"{path}.{MAGNITUDE}"), length)
        moved[f"{path}.weight"] = merged
    _put_token_rows(spec, moved, lora)


def _put_token_rows(spec: ModelSpec, moved: Arrays, lora: Lora) -> None:
    """Put rows of tokens among the tensors into the embeddings and the head, in place."""
    for path in find_token_paths(spec, lora):
        rows = moved.pop(f"{path}.{TOKEN_ROWS}")
        moved[f"{path}.weight"] = put_rows(moved[f"{path}.weight"], lora.token_ids, rows)


def draw_direction(case: Case, number: int) -> Arrays:
    """A random direction over all trained tensors; its rms in each is that of the tensor."""
    direction = {}
    for name in list_trainable(case.spec, case.recipe):
        value = case.params[name]
        noise = case.draw_normals(f"direction {number}/{name}", value.shape)
        direction[name] = noise.astype(np.float64) * (rms(value) or 0.02)
    return direction


def compute_gradient(
    spec: ModelSpec, params: Weights, batch: Batch, dropout: Dropout = None
) -> tuple[float, Arrays]:
    """The oracle's loss and its gradient, an element at a time: for the smallest models only."""
    loss, gradient = 0.0, {}
    for name, value in params.items():
        gradient[name] = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            unit = np.zeros(value.shape)
            unit[index] = 1.0
            loss, gradient[name][index] = compute_loss_and_slope(
                spec, params, {name: unit}, batch, dropout
            )
    return loss, gradient


def estimate_slope_size(grads: Weights, direction: Weights) -> float:
    """The standard deviation of <grads, direction> if the signs of its terms were random."""
    return float(np.sqrt(sum(np.square(grads[name] * direction[name]).sum() for name in direction)))
