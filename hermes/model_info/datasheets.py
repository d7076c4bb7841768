"""What makers publish of devices: peak rates of matrix products, memory and power.

Rates are of dense products with float32 sums, in 10^12 operations per second. NVIDIA prints those
of tensor cores with structured sparsity, which doubles them; they are halved here. What a maker
does not publish is left out. Figures are those of the makers' documents that `source` names, taken
from pages that quote them and not from the documents themselves. Imports nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BY_DRIVER_NAME", "BY_SHORT_NAME", "Datasheet"]


@dataclass(frozen=True)
class Datasheet:
    """A device. rates: per second, by precision. memory: bytes. watts: its limit under load."""

    source: str
    rates: Mapping[str, float]
    memory: int
    watts: float | None
    backend: str = "torch"
    device: str = "cuda"


def _make_rates(**teraflops: float) -> dict[str, float]:
    return {name: rate * 1e12 for name, rate in teraflops.items()}


GB = 10**9
_HOPPER = _make_rates(bfloat16=989, float16=989, tf32=494, float32=67)
_AMPERE = _make_rates(bfloat16=312, float16=312, tf32=156, float32=19.5)
_VOLTA = _make_rates(float16=125, float32=15.7)

# BFLOAT16 1,979, TF32 989 (both with sparsity), FP32 67 TFLOPS; 141 GB; 700 W.
H200 = Datasheet("NVIDIA H200 Tensor Core GPU datasheet, SXM", _HOPPER, 141 * GB, 700)
# The same rates; 80 GB; 700 W.
H100 = Datasheet("NVIDIA H100 Tensor Core GPU datasheet, SXM", _HOPPER, 80 * GB, 700)
# BFLOAT16 1,513, TF32 756 (both with sparsity), FP32 51 TFLOPS; 80 GB; 350 W.
H100_PCIE = Datasheet(
    "NVIDIA H100 Tensor Core GPU datasheet, PCIe",
    _make_rates(bfloat16=756, float16=756, tf32=378, float32=51),
    80 * GB,
    350,
)
# BFLOAT16 312, TF32 156, FP32 19.5 TFLOPS, printed without sparsity.
A100 = Datasheet("NVIDIA A100 Tensor Core GPU datasheet, SXM 80 GB", _AMPERE, 80 * GB, 400)
A100_40GB = Datasheet("NVIDIA A100 Tensor Core GPU datasheet, SXM 40 GB", _AMPERE, 40 * GB, 400)
A100_PCIE_40GB = Datasheet(
    "NVIDIA A100 Tensor Core GPU datasheet, PCIe 40 GB", _AMPERE, 40 * GB, 250
)
A100_PCIE = Datasheet("NVIDIA A100 Tensor Core GPU datasheet, PCIe 80 GB", _AMPERE, 80 * GB, 300)
# BFLOAT16 242, TF32 120 (both with sparsity), FP32 30.3 TFLOPS; 24 GB; 72 W.
L4 = Datasheet(
    "NVIDIA L4 Tensor Core GPU datasheet",
    _make_rates(bfloat16=121, float16=121, tf32=60, float32=30.3),
    24 * GB,
    72,
)
# BFLOAT16 362.05, TF32 183, FP32 91.6 TFLOPS, printed without sparsity; 48 GB; 350 W.
L40S = Datasheet(
    "NVIDIA L40S datasheet",
    _make_rates(bfloat16=362.05, float16=362.05, tf32=183, float32=91.6),
    48 * GB,
    350,
)
# FP16 and BF16 with FP32 sums 165.2, TF32 82.6, FP32 82.6 TFLOPS; 24 GB; 450 W.
RTX4090 = Datasheet(
    "NVIDIA Ada GPU Architecture whitepaper, appendix A",
    _make_rates(bfloat16=165.2, float16=165.2, tf32=82.6, float32=82.6),
    24 * GB,
    450,
)
# Mixed precision (FP16 with FP32 sums) 65, FP32 8.1 TFLOPS; 16 GB; 70 W.
T4 = Datasheet("NVIDIA T4 datasheet", _make_rates(float16=65, float32=8.1), 16 * GB, 70)
# Tensor performance (FP16 with FP32 sums) 125, FP32 15.7 TFLOPS; 300 W.
V100_16GB = Datasheet("NVIDIA V100 datasheet, SXM2 16 GB", _VOLTA, 16 * GB, 300)
V100_32GB = Datasheet("NVIDIA V100 datasheet, SXM2 32 GB", _VOLTA, 32 * GB, 300)
# Apple publishes memory, but neither rates nor power.
M3_MAX = Datasheet(
    "Apple MacBook Pro (2023) technical specifications", {}, 128 * GB, None, "mlx", "gpu"
)

# By the names under which a run is planned.
BY_SHORT_NAME = {
    "h200": H200,
    "h100": H100,
    "a100": A100,
    "l40s": L40S,
    "l4": L4,
    "rtx4090": RTX4090,
    "m3-max": M3_MAX,
}
# By the name that the driver gives a device.
BY_DRIVER_NAME = {
    "NVIDIA H200": H200,
    "NVIDIA H100 80GB HBM3": H100,
    "NVIDIA H100 PCIe": H100_PCIE,
    "NVIDIA A100-SXM4-40GB": A100_40GB,
    "NVIDIA A100-SXM4-80GB": A100,
    "NVIDIA A100-PCIE-40GB": A100_PCIE_40GB,
    "NVIDIA A100 80GB PCIe": A100_PCIE,
    "NVIDIA L4": L4,
    "NVIDIA L40S": L40S,
    "NVIDIA GeForce RTX 4090": RTX4090,
    "Tesla T4": T4,
    "Tesla V100-SXM2-16GB": V100_16GB,
    "Tesla V100-SXM2-32GB": V100_32GB,
}
