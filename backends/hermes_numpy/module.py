"""The little that modules need: tensors by attribute path, as the frameworks' own modules have."""

import numpy as np

from hermes.errors import CheckpointError


class Tensor:
    """A parameter that is not loaded yet."""

    def __init__(self, *shape):
        self.shape = shape


class Module:
    """A node whose tensors are named by the attributes that lead to them."""

    def load(self, tensors, prefix=""):
        """Put float64 copies of the named tensors in their places. Raises CheckpointError."""
        for name, value in list(vars(self).items()):
            path = f"{prefix}{name}"
            if isinstance(value, Tensor):
                found = tensors[path]
                if found.shape != value.shape:
                    raise CheckpointError(
                        f"tensor {path!r} has shape {found.shape}, expected {value.shape}"
                    )
                setattr(self, name, found.astype(np.float64))
            elif isinstance(value, Module):
                value.load(tensors, f"{path}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    item.load(tensors, f"{path}.{i}.")
        return self
