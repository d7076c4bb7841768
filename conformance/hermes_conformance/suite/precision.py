"""Whether float32 means float32 in a run: frameworks can shorten the inputs of its products."""

import os
import sys

from hermes.errors import HermesError
from hermes_conformance.measure.subject import Backends


def read_torch_precision() -> str:
    """'highest' if torch's float32 products are float32's; else the setting that shortens them."""
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "1":
        return "NVIDIA_TF32_OVERRIDE=1"
    torch = sys.modules["torch"]
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:  # raised once the newer of torch's two settings has been used
        return f"fp32_precision={torch.backends.cuda.matmul.fp32_precision}"


def require_float32(backends: Backends, dtypes: tuple[str, ...] = ()) -> None:
    """Refuse a run in which a framework may shorten inputs of float32 products, as tf32 does.

    dtypes: the formats that the run is narrowed to. MLX computes in either float32 or tf32 for a
    whole process, so a run of tf32 alone is not refused. Raises HermesError.
    """
    names = {backends.subject.name, backends.reference.name}
    precision = "highest"
    if "torch" in names and "torch" in sys.modules:
        precision = read_torch_precision()
    if precision != "highest":
        raise HermesError(
            f"torch multiplies float32 by {precision!r}, so float32 may not be float32; "
            "set it to 'highest'"
        )
    if dtypes == ("tf32",):
        return
    if "mlx" in names and os.environ.get("MLX_ENABLE_TF32") != "0":
        raise HermesError(
            "MLX_ENABLE_TF32 is not 0, so float32 may not be float32; set it before mlx is loaded"
        )
