"""Weights for cases: fresh, hot, level, wide, and with empty rows.

Fresh weights are those a run starts from; with hot ones attention attends and gates open. Each
hides mistakes that the other shows: with fresh weights a model without rope is within bfloat16's
rounding of the right one, and with hot ones a wrong norm eps is within float32's. So every field of
MAL is judged with both.
"""

import math

import numpy as np

from hermes.numerics.lora import find_adapted_paths
from hermes.numerics.merging import MAGNITUDE, UP
from hermes.numerics.params import init_weights
from hermes.spec import NoNorm
from hermes_conformance.cases.case import SEED, Case, Weights

HOT_GAIN = 1.5  # of a matrix: keeps or slightly raises the size of activations
PLAIN_GAIN = 1.0  # the same in a model without norms, where a gain would grow from layer to layer
HOT_SPREAD = 0.3  # of norm weights around their initial values, and of biases
UP_SPREAD = 0.1  # of the second matrix of an adapter
WIDE_SPREAD = 2.0**-26  # relative, of what weights have beyond float32: a quarter of its unit


def draw_fresh(case: Case) -> Weights:
    """The initial weights of a run."""
    return init_weights(case.spec, SEED)


def draw_hot(case: Case) -> Weights:
    """Matrices 4 to 10 times as large as fresh ones, and norms and biases that are not trivial."""
    initial = draw_fresh(case)
    tied = case.spec.embeddings.tie_weights
    plain = any(isinstance(block.norm, NoNorm) for block in case.spec.layers)
    gain = PLAIN_GAIN if plain else HOT_GAIN
    weights = {}
    for name, value in initial.items():
        noise = case.draw_normals(name, value.shape)
        if value.ndim == 1:
            weights[name] = (value + HOT_SPREAD * noise).astype(np.float32)
            continue
        looked_up = ".embed_" in name and not (tied and "embed_tokens" in name)
        inputs = 1 if looked_up else value.shape[1]
        weights[name] = (gain / math.sqrt(inputs) * noise).astype(np.float32)
    return weights


def draw_wide(case: Case) -> Weights:
    """Hot weights in float64 that float32 cannot hold, as those of a float64 run are."""
    return {
        name: value
        * (1 + WIDE_SPREAD * case.draw_normals(f"wide {name}", value.shape, 1.0).astype(np.float64))
        for name, value in draw_hot(case).items()
    }


def draw_level(case: Case) -> Weights:
    """Hot weights, but a head of zeros: all tokens are equally likely, to the last bit."""
    weights = dict(draw_hot(case))
    weights["lm_head.weight"] = np.zeros_like(weights["lm_head.weight"])
    return weights


def draw_empty_rows(case: Case) -> Weights:
    """Hot weights whose adapted matrices have a row of zeros, which stays one with the adapter."""
    weights, lora = dict(draw_hot(case)), case.recipe.lora
    assert lora is not None, "only adapters have such rows"
    for path in find_adapted_paths(case.spec, lora):
        matrix = weights[f"{path}.weight"]
        up = case.draw_normals(f"{path}.{UP}", (len(matrix), lora.rank), UP_SPREAD)
        matrix[0] = up[0] = 0.0
        noise = case.draw_normals(f"{path}.{MAGNITUDE}", (len(matrix),), HOT_SPREAD)
        weights[f"{path}.{UP}"] = up
        # Trained lengths, also of the row of zeros, which a step may fill.
        weights[f"{path}.{MAGNITUDE}"] = (1 + noise).astype(np.float32)
    return weights
