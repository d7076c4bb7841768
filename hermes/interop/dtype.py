"""Dtypes of tensor files, and casting between them."""

import numpy as np

from hermes.errors import HermesError
from hermes.interface import Array
from hermes.storage.safetensors import DTYPES

__all__ = ["DTYPE_CODES", "DTYPE_NAMES", "cast"]

# Names of dtypes in config.json and options -> their codes in safetensors.
DTYPE_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
DTYPE_NAMES = {code: word for word, code in DTYPE_CODES.items()}


def cast(array: Array, code: str, name: str) -> Array:
    """Cast a tensor to a dtype code, rounding to nearest. Raises HermesError on overflow."""
    wanted = DTYPES[code]
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore"):  # refused below, by tensor name
        result = array.astype(wanted)
    infinite = ~np.isfinite(result)
    if infinite.any() and np.isfinite(array[infinite]).any():
        largest = float(np.abs(array[np.isfinite(array)]).max())
        raise HermesError(
            f"tensor {name!r} reaches {largest:.3g}, beyond what {DTYPE_NAMES[code]} can hold; "
            "choose bfloat16 or float32"
        )
    return result
