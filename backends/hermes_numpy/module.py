"""Module and Tensor, which frameworks bring along and NumPy does not, so that model.py is the same.

As theirs, parameters are named by the attributes that lead to them.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy import ndarray as Array

from hermes.errors import CheckpointError


class Unloaded(Array):
    """An array that stands for a parameter until it is loaded."""


def Tensor(*shape: int) -> Array:
    """A parameter that is not loaded yet: NaN everywhere, in no memory."""
    return np.broadcast_to(np.nan, shape).view(Unloaded)


class Module:
    """A node of a model."""

    def load(self, tensors: Mapping[str, Array], prefix: str = "") -> Self:
        """Load a float64 copy of each parameter, by its path. Raises CheckpointError."""
        for name, value in list(vars(self).items()):
            path = f"{prefix}{name}"
            if isinstance(value, Unloaded):
                array = tensors[path]
                if array.shape != value.shape:
                    raise CheckpointError(
                        f"tensor {path!r} has shape {array.shape}, expected {value.shape}"
                    )
                setattr(self, name, array.astype(np.float64))
            elif isinstance(value, Module):
                value.load(tensors, f"{path}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    item.load(tensors, f"{path}.{i}.")
        return self
