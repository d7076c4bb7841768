"""Weights for cases, quiet and loud.

Fresh weights are what a run starts from; hot ones are loud enough that attention attends and gates
open. Each hides what the other shows: with fresh weights a model without rope is within bfloat16 of
the right one, and with hot ones a wrong eps is within float32. So fields are judged with both.
"""

import math

import numpy as np

from hermes.numerics.params import init_weights
from hermes.spec import NoNorm
from hermes_conformance.cases.case import SEED, Case, Weights

HOT_GAIN = 1.5  # of a matrix: what keeps or slightly raises the size of what passes through it
PLAIN_GAIN = 1.0  # the same in a model that norms nothing
HOT_SPREAD = 0.3  # of norm weights around their first values, and of biases


def fresh(case: Case) -> Weights:
    """A run's first weights."""
    return init_weights(case.spec, SEED)


def hot(case: Case) -> Weights:
    """Matrices four to ten times as loud as fresh ones, and norms and biases that do something."""
    first = fresh(case)
    tied = case.spec.embeddings.tie_weights
    plain = any(isinstance(block.norm, NoNorm) for block in case.spec.layers)
    gain = PLAIN_GAIN if plain else HOT_GAIN
    made = {}
    for name, value in first.items():
        noise = case.normals(name, value.shape)
        if value.ndim == 1:
            made[name] = (value + HOT_SPREAD * noise).astype(np.float32)
            continue
        looked_up = ".embed_" in name and not (tied and "embed_tokens" in name)
        inputs = 1 if looked_up else value.shape[1]
        made[name] = (gain / math.sqrt(inputs) * noise).astype(np.float32)
    return made


def level(case: Case) -> Weights:
    """Hot, with a head of zeros: every token is as likely as any other, to the last bit."""
    made = dict(hot(case))
    made["lm_head.weight"] = np.zeros_like(made["lm_head.weight"])
    return made
