"""The conditions of a run: all that its numbers may depend on."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hermes_conformance.measure.subject import Backends
from hermes_conformance.suite.precision import read_torch_precision

# Of the processor's flags, those by which libraries choose their kernels.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "fma", "asimd", "sve", "bf16")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MLX_ENABLE_TF32")


def describe_processor() -> dict[str, Any]:
    """Machine, cores and, on Linux, model and flags."""
    processor: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = [line.partition(":") for line in lines]
        values = {key.strip(): value.strip() for key, _, value in pairs}
        flags = (values.get("flags") or values.get("Features") or "").split()
        processor["model"] = values.get("model name", "")
        processor["flags"] = [flag for flag in FLAGS if flag in flags]
    return processor


def describe_conditions() -> dict[str, Any]:
    """Date, Python, system, processor, environment variables, and torch's settings if loaded."""
    conditions: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": describe_processor(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    if "torch" in sys.modules:
        conditions["torch_threads"] = sys.modules["torch"].get_num_threads()
        conditions["torch_matmul_precision"] = read_torch_precision()
    return conditions


def read_versions(backends: Backends) -> dict[str, str]:
    """The version of hermes and of each backend's libraries."""
    versions = {"hermes": version("hermes-llm")}
    for backend in (backends.oracle, backends.reference, backends.subject):
        versions |= backend.backend.versions()
    return versions
