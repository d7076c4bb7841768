"""Derivatives of the oracle, which has none of its own: one complex step per direction.

The step is so small (2^-300) that nothing is lost to it: derivatives come out as exact as the loss.
Five-point differences, which keep ten digits at best, check this file in the suite's own tests.
"""

import numpy as np

from hermes.params import parameters
from hermes.randomness import dropout_row_keys, normals
from hermes.seam import Batch
from hermes.spec import ModelSpec
from hermes_conformance.case import SEED, Case
from hermes_conformance.compare import rms
from hermes_conformance.probes import TINY, dual
from hermes_numpy import ops
from hermes_numpy.context import Context
from hermes_numpy.loss import next_token
from hermes_numpy.model import Transformer

Vectors = dict[str, np.ndarray]


def loss_and_slope(
    spec: ModelSpec,
    params: Vectors,
    toward: Vectors,
    batch: Batch,
    dropout: tuple[int, int] | None = None,
) -> tuple[float, float]:
    """The oracle's loss at `params`, and d loss(params + s toward) / ds at s = 0.

    dropout: (seed, update) or None.
    """
    moved = {name: dual(value, toward.get(name)) for name, value in params.items()}
    module = Transformer(spec, ops).load(moved)
    total = 0.0
    for a in range(len(batch.tokens)):
        segments = None if batch.segments is None else batch.segments[a]
        keys = None if dropout is None else dropout_row_keys(*dropout, batch.rows[a])
        logits = module(batch.tokens[a], Context(segments=segments, keys=keys))
        total = total + next_token(logits, batch.targets[a])
    mean = complex(total / max(batch.counted, 1))
    return mean.real, mean.imag / TINY


def direction(case: Case, number: int) -> Vectors:
    """A random direction over all tensors, each part as large as its tensor is."""
    made = {}
    for name, value in case.params.items():
        noise = normals(SEED, f"conformance/{case.name}/direction {number}/{name}", value.shape, 1)
        made[name] = noise.astype(np.float64) * (rms(value) or 0.02)
    return made


def gradient(
    spec: ModelSpec,
    params: Vectors,
    batch: Batch,
    dropout: tuple[int, int] | None = None,
) -> tuple[float, Vectors]:
    """The oracle's loss and whole gradient, an element at a time: for the smallest models only."""
    loss, made = 0.0, {}
    for name in parameters(spec):
        made[name] = np.zeros(params[name].shape)
        for index in np.ndindex(params[name].shape):
            along = np.zeros(params[name].shape)
            along[index] = 1.0
            loss, made[name][index] = loss_and_slope(spec, params, {name: along}, batch, dropout)
    return loss, made


def natural_size(grads: Vectors, toward: Vectors) -> float:
    """How large <grads, toward> is when its terms have random signs."""
    return float(np.sqrt(sum(np.square(grads[name] * toward[name]).sum() for name in toward)))
