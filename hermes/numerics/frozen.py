"""The matrices that a learner does not train, which it holds in the type of products.

They are cast to that type wherever they are used, so a step computes the same bits from them. Where
this loses some of their own, those stay in the source of the weights, which is read again for what
a learner hands over: a checkpoint holds the base as it came.
"""

import threading
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hermes.errors import CheckpointError
from hermes.interface import Array, TrainState
from hermes.numerics.lora import find_adapted_paths, list_trainable
from hermes.numerics.params import list_parameters
from hermes.recipe import Recipe
from hermes.spec import ModelSpec

__all__ = ["FrozenWeights", "is_bfloat16", "list_frozen_matrices"]


def list_frozen_matrices(spec: ModelSpec, recipe: Recipe) -> tuple[str, ...]:
    """List the tensors of more than one axis that a run does not train."""
    trained = set(list_trainable(spec, recipe))
    table = list_parameters(spec)
    return tuple(name for name in table if len(table[name].shape) > 1 and name not in trained)


def is_bfloat16(wide: NDArray[np.float32]) -> bool:
    """Whether every number is one of bfloat16, the upper half of a float32."""
    lower = np.ascontiguousarray(wide, "<f4").view("<u2")[..., ::2]
    return not lower.any()


def _compute_checksum(wide: NDArray[np.float32]) -> int:
    return zlib.crc32(wide.reshape(-1).view(np.uint8).data)


class FrozenWeights:
    """The frozen matrices of a learner that are held in bfloat16, under that precision.

    Those that bfloat16 holds without loss, and if the state says that its weights can be read
    again, the others too: they, and with them all, are read from there. Matrices whose rows DoRA
    measures, which it does in float32, are held without loss or not at all.
    """

    def __init__(self, spec: ModelSpec, state: TrainState, recipe: Recipe, precision: str):
        frozen = list_frozen_matrices(spec, recipe) if precision == "bfloat16" else ()
        self._candidates, self._state = frozenset(frozen), state
        lora = recipe.lora
        paths = find_adapted_paths(spec, lora) if lora and lora.dora else ()
        self._measured = frozenset(f"{path}.weight" for path in paths)
        self._checksums: dict[str, int] = {}
        self._lock = threading.Lock()

    def shorten(self, name: str, array: Array) -> bool:
        """Decide whether a tensor that is being loaded is held in bfloat16, and remember it."""
        if name not in self._candidates:
            return False
        wide = np.ascontiguousarray(array, np.float32)
        may_lose = self._state.can_reread and name not in self._measured
        if not may_lose and not is_bfloat16(wide):
            return False
        if self._state.can_reread:
            self._checksums[name] = _compute_checksum(wide)
        return True

    def __contains__(self, name: object) -> bool:
        return name in self._checksums

    def __iter__(self) -> Iterator[str]:
        """The names of those that `read` reads."""
        return iter(self._checksums)

    def read(self, name: str) -> NDArray[np.float32]:
        """Read a matrix from its source again, in float32; any thread may.

        Raises CheckpointError where it is no longer what was loaded.
        """
        with self._lock:  # sources are read by one thread at a time
            wide = np.array(self._state.params[name], np.float32)
        if _compute_checksum(wide) != self._checksums[name]:
            raise CheckpointError(
                f"{name!r} is frozen, and its source has changed since the run began: its files "
                "were written over; resume from the last checkpoint with --resume"
            )
        return wide
