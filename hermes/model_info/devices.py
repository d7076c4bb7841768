"""What is known of a device besides the model: its kind, and the precision that suits it.

Which precision "auto" stands for depends on the device alone, never on the backend.
"""

from hermes.errors import HermesError
from hermes.interface import PRECISIONS, SHORT_NAMES, Backend, DeviceInfo

__all__ = [
    "AUTO",
    "choose_precision",
    "describe_device",
    "describe_float32",
    "find_peak_rate",
    "find_precision",
]

AUTO = "auto"
# CUDA devices multiply bfloat16 in hardware from this compute capability on (Ampere).
BFLOAT16_SINCE = (8, 0)


def _list_rates(bfloat16: float | None, tf32: float | None, float32: float) -> dict[str, float]:
    rates = {"bfloat16": bfloat16, "tf32": tf32, "float32": float32}
    return {name: rate for name, rate in rates.items() if rate is not None}


_A100 = _list_rates(312, 156, 19.5)
_V100 = _list_rates(None, None, 15.7)
# 10^12 operations per second of dense products with float32 sums, by the name that the driver gives
# a device. Sources: NVIDIA's data sheets of each, whose figures with sparsity are halved. Apple
# publishes none.
PEAK_RATES = {
    "NVIDIA H200": _list_rates(989, 494, 67),
    "NVIDIA H100 80GB HBM3": _list_rates(989, 494, 67),
    "NVIDIA H100 PCIe": _list_rates(756, 378, 51),
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA L4": _list_rates(121, 60, 30.3),
    "NVIDIA L40S": _list_rates(362, 183, 91.6),
    "Tesla T4": _list_rates(None, None, 8.1),
    "Tesla V100-SXM2-16GB": _V100,
    "Tesla V100-SXM2-32GB": _V100,
}


def describe_device(backend: Backend, device: str | None = None) -> DeviceInfo:
    """What a backend's device is, or its preferred one; a CPU where the backend does not say."""
    describe = getattr(backend, "describe_device", None)
    known = backend.devices()
    name = device or known[0]
    if describe is None or name not in known:  # building a model refuses an unknown device by name
        return DeviceInfo()
    found: DeviceInfo = describe(name)
    return found


def find_precision(device: DeviceInfo) -> str:
    """The precision that "auto" stands for on a device."""
    if device.precision is not None:
        return device.precision
    if device.kind == "metal":
        return "bfloat16"
    if device.kind == "cuda" and device.capability >= BFLOAT16_SINCE:
        return "bfloat16"
    return "float32"


def choose_precision(precision: str, backend: Backend, device: str | None = None) -> str:
    """The precision by its full name, with "auto" as the device has it. Raises HermesError."""
    if precision == AUTO:
        return find_precision(describe_device(backend, device))
    full = SHORT_NAMES.get(precision, precision)
    if full not in PRECISIONS:
        names = ", ".join((AUTO, *PRECISIONS))
        raise HermesError(f"precision is {precision!r}; it must be one of {names}")
    return full


def find_peak_rate(precision: str, device: DeviceInfo) -> float | None:
    """The most floating-point operations per second of dense products; None where not known."""
    rate = PEAK_RATES.get(device.name, {}).get(precision)
    return None if rate is None else rate * 1e12


def describe_float32(precision: str, device: DeviceInfo) -> str | None:
    """What float32 costs on a GPU that has bfloat16, in a sentence; None elsewhere."""
    if precision != "float32" or find_precision(device) != "bfloat16":
        return None
    slower = " and products without tensor cores" if device.kind == "cuda" else ""
    return (
        f"float32 on {device.name or device.kind}: activations of twice the size{slower}; "
        "--precision bfloat16, the default here, is faster"
    )
