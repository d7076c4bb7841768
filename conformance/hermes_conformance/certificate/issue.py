"""What a run proved, under which conditions, in JSON that can be kept and checked again."""

import hashlib
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes_conformance.golden.vectors import golden_hash
from hermes_conformance.measure.law import Sides
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.suite.report import LawReport, by_law
from hermes_conformance.suite.runner import (
    DECLINED,
    DTYPES,
    EXPECTED,
    FAILED,
    PASSED,
    Outcome,
    Selection,
)
from hermes_conformance.suite.selection import certified

FORMAT = "hermes-conformance/1"
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "fma", "asimd", "sve", "bf16")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def processor() -> dict[str, Any]:
    """Model and the flags that decide which kernels run."""
    found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = [line.partition(":") for line in lines]
        named = {key.strip(): value.strip() for key, _, value in pairs}
        flags = (named.get("flags") or named.get("Features") or "").split()
        found["model"] = named.get("model name", "")
        found["flags"] = [flag for flag in FLAGS if flag in flags]
    return found


def conditions(sides: Sides) -> dict[str, Any]:
    """All that the numbers may depend on. TF32 in MLX is off or the run says so."""
    names = (*THREADS, "MLX_ENABLE_TF32")
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "environment": {name: os.environ[name] for name in names if name in os.environ},
    }
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        found["torch_threads"] = torch.get_num_threads()
        found["torch_matmul_precision"] = _torch_products()
    return found


def versions(sides: Sides) -> dict[str, str]:
    """hermes's own version and those of both backends' libraries."""
    found = {"hermes": version("hermes-llm")}
    for side in (sides.oracle, sides.reference, sides.subject):
        found |= side.backend.versions()
    return found


def _torch_products() -> str:
    """'highest' where torch's float32 products are float32's, else what says that they are not."""
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "1":
        return "NVIDIA_TF32_OVERRIDE=1"
    try:
        return sys.modules["torch"].get_float32_matmul_precision()
    except RuntimeError:  # the newer setting has been used, and the older one refuses to answer
        return f"fp32_precision={sys.modules['torch'].backends.cuda.matmul.fp32_precision}"


def require_float32(sides: Sides, dtypes: tuple[str, ...] = ()) -> None:
    """Refuse a run in which a framework may round the inputs of float32 products, as TF32 does.

    dtypes: what the run is narrowed to; of MLX, whose process has one or the other, tf32 alone is
    no such run. Raises HermesError.
    """
    names = {side.name for side in (sides.subject, sides.reference)}
    precision = "highest"
    if "torch" in names and "torch" in sys.modules:
        precision = _torch_products()
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


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _law(report: LawReport) -> dict[str, Any]:
    worst = report.worst
    return {
        "law": report.law.name,
        "says": report.law.says,
        "cases": len(report.outcomes),
        "passed": report.count(PASSED),
        "failed": report.count(FAILED),
        "declined": report.count(DECLINED),
        "expected": report.count(EXPECTED),
        "worst": None if worst is None else _number(worst[0].error),
        "bound": report.law.bound.limit if worst is None else worst[0].bound.limit,
        "unit": report.law.bound.unit if worst is None else worst[0].bound.unit,
        "ratio": None if worst is None else _number(worst[0].ratio),
        "case": "" if worst is None else worst[1],
        "where": "" if worst is None else worst[0].where,
        "seconds": round(report.seconds, 2),
    }


def _failure(outcome: Outcome) -> dict[str, Any]:
    return {
        "law": outcome.law.id,
        "case": outcome.case,
        "message": outcome.message,
        "measures": [
            {
                "tensor": m.tensor,
                "shape": list(m.shape),
                "index": list(m.index),
                "error": _number(m.error),
                "bound": m.bound.limit,
                "unit": m.bound.unit,
            }
            for m in outcome.failures[:10]
        ],
    }


def certificate(
    sides: Sides,
    selection: Selection,
    outcomes: Iterable[Outcome],
    complaints: Iterable[str] = (),
) -> dict[str, Any]:
    """What the run found. passed: nothing failed, and something that asks the backend passed."""
    found, wrong = list(outcomes), list(complaints)
    levels = []
    for level in selection.of_levels():
        reports = [report for report in by_law(found) if report.law.level == level.name]
        if reports:
            passed = all(report.count(FAILED) == 0 for report in reports)
            laws = [_law(report) for report in reports]
            entry = {"level": level.name, "title": level.title, "passed": passed, "laws": laws}
            levels.append(entry)
    failed = [outcome for outcome in found if outcome.status == FAILED]
    made: dict[str, Any] = {
        "format": FORMAT,
        "backend": sides.subject.name,
        "against": sides.reference.name,
        "device": device_of(sides.subject),
        "float64_device": sides.subject.float64_device or "cpu",
        "precisions": _precisions(found),
        "versions": versions(sides),
        "passed": certified(found) and not failed and not wrong,
        "whole": selection.whole and not selection.levels,
        "long": selection.long,
        "chosen": _chosen(selection),
        "levels": levels,
        "failures": [_failure(outcome) for outcome in failed[:100]],
        "waivers": sorted({o.message for o in found if o.status == EXPECTED}),
        "expected": [_expected(outcome) for outcome in found if outcome.status == EXPECTED],
        "complaints": wrong,
        "conditions": conditions(sides),
        "golden": golden_hash(),
    }
    return sealed(made)


def _precisions(outcomes: Iterable[Outcome]) -> list[str]:
    """What the backend was judged in: tf32 is among them where its products were on."""
    met = {o.law.precision for o in outcomes if o.status != DECLINED}
    return [name for name in DTYPES if name in met]


def _chosen(selection: Selection) -> list[str]:
    """The options that narrowed the run."""
    options = {
        "--level": selection.levels,
        "--law": selection.laws,
        "--case": selection.cases,
        "--dtype": selection.dtypes,
    }
    return [word for option, values in options.items() for v in values for word in (option, v)]


def _expected(outcome: Outcome) -> dict[str, str]:
    return {"law": outcome.law.id, "case": outcome.case, "reason": outcome.message}


def scope(value: dict[str, Any]) -> str:
    """What of the suite it covers: `whole`, or `partial: 1 law, 2 checks, by --law L1/logits`."""
    laws = [law for level in value["levels"] for law in level["laws"]]
    checks = sum(law["cases"] for law in laws)
    many = f"{_count(len(laws), 'law')}, {_count(checks, 'check')}"
    if value["whole"]:
        return f"whole: {many}"
    chosen = value.get("chosen")
    return f"partial: {many}" + (f", by {shlex.join(chosen)}" if chosen else "")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """A certificate with the hash of the rest of it."""
    return {**value, "sha256": digest(value)}


def device_of(side: BackendUnderTest) -> str:
    """The device that the side's models are on."""
    return side.device or side.backend.devices()[0]


def digest(value: dict[str, Any]) -> str:
    """SHA-256 of all of a certificate but this very entry."""
    plain = {name: entry for name, entry in value.items() if name != "sha256"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
