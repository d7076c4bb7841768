"""What is known of a device besides the model: its kind, and the precision that suits it.

Which precision "auto" stands for depends on the device alone, never on the backend.
"""

import re
from importlib import metadata

from hermes.errors import HermesError, Unsupported
from hermes.interface import (
    PRECISIONS,
    SHORT_NAMES,
    Backend,
    DeviceInfo,
    detect_default_backend,
)
from hermes.model_info.datasheets import BY_DRIVER_NAME
from hermes.numerics.params import count_parameters
from hermes.spec import ModelSpec
from hermes.stages import report_heading

__all__ = [
    "AUTO",
    "choose_device",
    "choose_precision",
    "describe_device",
    "describe_float32",
    "describe_model",
    "find_peak_rate",
    "find_precision",
    "report_model",
    "require_device_name",
    "require_precision",
]

AUTO = "auto"
# CUDA devices multiply bfloat16 in hardware from this compute capability on (Ampere).
BFLOAT16_SINCE = (8, 0)
# What devices can be called, by backend: a pattern, and words for it.
DEVICE_NAMES = {
    "numpy": ("cpu", "cpu"),
    "torch": (r"cpu|cuda(:\d+)?", "cpu, cuda and cuda:N"),
    "mlx": ("cpu|gpu", "gpu and cpu"),
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


def require_device_name(backend: str, device: str | None) -> None:
    """Refuse a device that cannot be the backend's on any machine, or in this build of it.

    It loads no framework, which takes seconds; `choose_device` looks at this machine. backend: a
    name, or "auto". Raises Unsupported.
    """
    name = detect_default_backend() if backend == "auto" else backend
    if device is None or name not in DEVICE_NAMES:
        return
    if name == "torch" and device != "cpu" and _is_cpu_build("torch"):
        raise Unsupported(f"{name} has no device {device!r} here; it has cpu")
    pattern, words = DEVICE_NAMES[name]
    if re.fullmatch(pattern, device) is None:
        raise Unsupported(f"{name} has no device {device!r}; what it can have is {words}")


def _is_cpu_build(library: str) -> bool:
    """Whether the installed build of a library says that it is for CPUs alone."""
    try:
        return metadata.version(library).endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def choose_device(backend: Backend, device: str | None = None) -> str:
    """A device of this machine by its name, the preferred one for None. Raises Unsupported."""
    known = backend.devices()
    if device is not None and device not in known:
        there = ", ".join(known)
        raise Unsupported(f"{backend.name} has no device {device!r} here; it has {there}")
    return device or known[0]


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
    require_precision(precision)
    if precision == AUTO:
        return find_precision(describe_device(backend, device))
    return SHORT_NAMES.get(precision, precision)


def require_precision(precision: str) -> None:
    """Refuse a precision that does not exist, by either of its names. Raises HermesError."""
    if precision != AUTO and SHORT_NAMES.get(precision, precision) not in PRECISIONS:
        names = ", ".join((AUTO, *PRECISIONS))
        raise HermesError(f"precision is {precision!r}; it must be one of {names}")


def find_peak_rate(precision: str, device: DeviceInfo) -> float | None:
    """The most floating-point operations per second of dense products; None where not known."""
    sheet = BY_DRIVER_NAME.get(device.name)
    return None if sheet is None else sheet.rates.get(precision)


def describe_model(backend: Backend, spec: ModelSpec, device: str, precision: str) -> str:
    """The heading of what uses a model: its size, and `mlx 0.32.4 on cpu, float32`."""
    versions = " ".join(f"{name} {number}" for name, number in backend.versions().items())
    where = f"{versions} on {device}, {precision}"
    return f"model {spec.name}: {count_parameters(spec):,} parameters; {where}"


def report_model(backend: Backend, spec: ModelSpec, device: str, precision: str) -> None:
    """Report the heading, and on a GPU what float32 costs there."""
    report_heading(describe_model(backend, spec, device, precision))
    if told := describe_float32(precision, describe_device(backend, device)):
        report_heading(told)


def describe_float32(precision: str, device: DeviceInfo) -> str | None:
    """What float32 costs on a GPU that has bfloat16, in a sentence; None elsewhere."""
    if precision != "float32" or find_precision(device) != "bfloat16":
        return None
    slower = " and products without tensor cores" if device.kind == "cuda" else ""
    return (
        f"float32 on {device.name or device.kind}: activations of twice the size{slower}; "
        "--precision bfloat16, the default here, is faster"
    )
