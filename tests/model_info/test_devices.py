"""Which precision "auto" is, by the device alone, and what a device is called and said to be."""

import pytest

from hermes.errors import HermesError, Unsupported
from hermes.interface import DeviceInfo, find_backend
from hermes.model_info import devices
from hermes.model_info.devices import (
    choose_precision,
    describe_device,
    describe_float32,
    find_precision,
    require_device_name,
)

DEVICES = [
    (DeviceInfo("cpu"), "float32"),
    (DeviceInfo("cpu", precision="float64"), "float64"),
    (DeviceInfo("metal", "Apple M2"), "bfloat16"),
    (DeviceInfo("cuda", "Tesla V100-SXM2-16GB", (7, 0)), "float32"),
    (DeviceInfo("cuda", "Tesla T4", (7, 5)), "float32"),
    (DeviceInfo("cuda", "NVIDIA A100-SXM4-80GB", (8, 0)), "bfloat16"),
    (DeviceInfo("cuda", "NVIDIA GeForce RTX 4090", (8, 9)), "bfloat16"),
    (DeviceInfo("cuda", "NVIDIA H200", (9, 0)), "bfloat16"),
    (DeviceInfo("cuda", "NVIDIA B200", (10, 0)), "bfloat16"),
    (DeviceInfo("cuda"), "float32"),
]


class HasDevices:
    """What is asked of a backend here: its devices, and what they are."""

    def __init__(self, **devices):
        self._devices = devices

    def devices(self):
        return (*self._devices,)

    def describe_device(self, name):
        return self._devices[name]


@pytest.mark.parametrize(("device", "precision"), DEVICES)
def test_auto_is_the_devices(device, precision):
    assert find_precision(device) == precision
    assert choose_precision("auto", HasDevices(one=device)) == precision
    assert choose_precision("float64", HasDevices(one=device)) == "float64"


def test_auto_is_of_the_device_that_was_asked_for():
    backend = HasDevices(gpu=DeviceInfo("metal", "Apple M2"), cpu=DeviceInfo("cpu"))
    assert choose_precision("auto", backend) == "bfloat16"
    assert choose_precision("auto", backend, "cpu") == "float32"
    assert choose_precision("auto", backend, "cuda") == "float32"  # refused when it is built
    assert choose_precision("bf16", backend) == "bfloat16"
    with pytest.raises(HermesError, match=r"^precision is 'half'; it must be one of auto, float32"):
        choose_precision("half", backend)


@pytest.mark.parametrize(
    ("name", "precision"), [("torch", "float32"), ("mlx", "float32"), ("numpy", "float64")]
)
def test_auto_on_this_machines_cpu(name, precision):
    assert choose_precision("auto", find_backend(name), "cpu") == precision
    assert describe_device(find_backend(name), "cpu").kind == "cpu"


def test_float32_on_a_gpu_says_what_it_costs():
    h200, v100 = DEVICES[7][0], DEVICES[3][0]
    assert describe_float32("float32", h200) == (
        "float32 on NVIDIA H200: activations of twice the size and products without tensor cores; "
        "--precision bfloat16, the default here, is faster"
    )
    assert describe_float32("bfloat16", h200) is None
    assert describe_float32("float32", v100) is None
    assert describe_float32("float32", DeviceInfo("cpu")) is None
    assert "tensor cores" not in (describe_float32("float32", DeviceInfo("metal", "M2")) or "")


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
def test_no_device_of_this_machine_is_refused_by_its_name(backend):
    for device in (None, *find_backend(backend).devices()):
        require_device_name(backend, device)


@pytest.mark.parametrize(
    ("backend", "device", "can"),
    [
        ("torch", "gpu", "cpu, cuda and cuda:N"),
        ("torch", "cuda:", "cpu, cuda and cuda:N"),
        ("torch", "cuda:0,1", "cpu, cuda and cuda:N"),
        ("mlx", "cuda", "gpu and cpu"),
        ("numpy", "gpu", "cpu"),
    ],
)
def test_a_device_that_no_machine_has_is_refused(monkeypatch, backend, device, can):
    monkeypatch.setattr(devices.metadata, "version", lambda name: "2.13.0")
    with pytest.raises(Unsupported) as refused:
        require_device_name(backend, device)
    assert str(refused.value) == f"{backend} has no device {device!r}; what it can have is {can}"


@pytest.mark.parametrize(("version", "refused"), [("2.13.0+cpu", True), ("2.13.0", False)])
def test_a_build_for_cpus_alone_has_no_gpu(monkeypatch, version, refused):
    """Whether another build finds one on this machine, only the library itself can tell."""
    monkeypatch.setattr(devices.metadata, "version", lambda name: version)
    require_device_name("torch", "cpu")
    if not refused:
        require_device_name("torch", "cuda:3")
        return
    with pytest.raises(Unsupported, match=r"^torch has no device 'cuda:3' here; it has cpu$"):
        require_device_name("torch", "cuda:3")


def test_a_backend_that_is_not_of_hermes_may_call_its_devices_as_it_likes():
    require_device_name("jax", "tpu:7")
