"""A certificate: what a run proved and under which conditions, as JSON that can be verified."""

import hashlib
import json
import math
import shlex
from collections.abc import Iterable
from typing import Any

from hermes.formatting import format_count
from hermes_conformance.certificate.conditions import describe_conditions, read_versions
from hermes_conformance.golden.vectors import hash_golden_folder
from hermes_conformance.measure.subject import Backends
from hermes_conformance.suite.report import LawReport, group_by_law
from hermes_conformance.suite.runner import (
    DECLINED,
    EXPECTED,
    FAILED,
    PASSED,
    Outcome,
    is_certified,
)
from hermes_conformance.suite.selection import DTYPES, Selection

FORMAT = "hermes-conformance/1"


def issue_certificate(
    backends: Backends,
    selection: Selection,
    outcomes: Iterable[Outcome],
    complaints: Iterable[str] = (),
) -> dict[str, Any]:
    """The certificate of a run, sealed.

    complaints: about the xfail file. passed: nothing failed, and a law that needs the backend
    passed on the device. A level of which everything was declined has not passed.
    """
    every, wrong = list(outcomes), list(complaints)
    device = backends.subject.device_name
    levels = []
    for level in selection.list_levels():
        reports = [report for report in group_by_law(every) if report.law.level == level.name]
        if reports:
            sound = all(report.count(FAILED) == 0 for report in reports)
            passed = sound and any(report.count(PASSED) for report in reports)
            laws = [_describe_law(report) for report in reports]
            entry = {"level": level.name, "title": level.title, "passed": passed, "laws": laws}
            levels.append(entry)
    failed = [outcome for outcome in every if outcome.status == FAILED]
    expected = [outcome for outcome in every if outcome.status == EXPECTED]
    certificate: dict[str, Any] = {
        "format": FORMAT,
        "backend": backends.subject.name,
        "against": backends.reference.name,
        "device": device,
        "float64_device": backends.subject.float64_device or "cpu",
        "precisions": _list_precisions(every, device),
        "versions": read_versions(backends),
        "passed": is_certified(every, device) and not failed and not wrong,
        "whole": selection.whole and not selection.levels,
        "long": selection.long,
        "chosen": _list_options(selection),
        "levels": levels,
        "failures": [_describe_failure(outcome) for outcome in failed[:100]],
        "waivers": sorted({outcome.message for outcome in expected}),
        "expected": [_describe_expected(outcome) for outcome in expected],
        "complaints": wrong,
        "conditions": describe_conditions(),
        "golden": hash_golden_folder(),
    }
    return seal(certificate)


def _as_json_number(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _describe_law(report: LawReport) -> dict[str, Any]:
    worst = report.worst
    return {
        "law": report.law.name,
        "says": report.law.statement,
        "cases": len(report.outcomes),
        "passed": report.count(PASSED),
        "failed": report.count(FAILED),
        "declined": report.count(DECLINED),
        "expected": report.count(EXPECTED),
        "on": _count_passes_by_device(report),
        "worst": None if worst is None else _as_json_number(worst[0].error),
        "bound": report.law.bound.limit if worst is None else worst[0].bound.limit,
        "unit": report.law.bound.unit if worst is None else worst[0].bound.unit,
        "ratio": None if worst is None else _as_json_number(worst[0].ratio),
        "case": "" if worst is None else worst[1],
        "where": "" if worst is None else worst[0].where,
        "seconds": round(report.seconds, 2),
        **({"notes": report.notes} if report.notes else {}),
    }


def _count_passes_by_device(report: LawReport) -> dict[str, int]:
    """On how many cases the law passed on each device; a case may compute on several."""
    used = [device for o in report.outcomes if o.status == PASSED for device in o.devices]
    return {device: used.count(device) for device in sorted(set(used))}


def _describe_failure(outcome: Outcome) -> dict[str, Any]:
    return {
        "law": outcome.law.id,
        "case": outcome.case,
        "message": outcome.message,
        "measures": [
            {
                "tensor": measurement.tensor,
                "shape": list(measurement.shape),
                "index": list(measurement.index),
                "error": _as_json_number(measurement.error),
                "bound": measurement.bound.limit,
                "unit": measurement.bound.unit,
            }
            for measurement in outcome.failures[:10]
        ],
    }


def _describe_expected(outcome: Outcome) -> dict[str, str]:
    return {"law": outcome.law.id, "case": outcome.case, "reason": outcome.message}


def _list_precisions(outcomes: Iterable[Outcome], device: str) -> list[str]:
    """The formats that the backend was judged in on the device: of laws that it did not decline."""
    judged = {o.law.precision for o in outcomes if o.status != DECLINED and device in o.devices}
    return [name for name in DTYPES if name in judged]


def _list_options(selection: Selection) -> list[str]:
    """The command-line options that narrowed the run."""
    options = {
        "--level": selection.levels,
        "--law": selection.laws,
        "--case": selection.cases,
        "--dtype": selection.dtypes,
    }
    return [word for option, values in options.items() for v in values for word in (option, v)]


def describe_scope(certificate: dict[str, Any]) -> str:
    """How much of the suite was run: `partial: 1 law, 2 checks, by --law L1/logits`."""
    laws = [law for level in certificate["levels"] for law in level["laws"]]
    checks = sum(law["cases"] for law in laws)
    counts = f"{format_count(len(laws), 'laws')}, {format_count(checks, 'checks')}"
    if certificate["whole"]:
        return f"whole: {counts}"
    options = certificate.get("chosen")
    return f"partial: {counts}" + (f", by {shlex.join(options)}" if options else "")


def seal(certificate: dict[str, Any]) -> dict[str, Any]:
    """The certificate with the hash of all its other entries."""
    return {**certificate, "sha256": digest(certificate)}


def digest(certificate: dict[str, Any]) -> str:
    """SHA-256 of all entries but `sha256`. Raises ValueError for NaN and infinity."""
    plain = {name: entry for name, entry in certificate.items() if name != "sha256"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def list_passed_levels(certificate: dict[str, Any]) -> dict[str, list[str]]:
    """The levels of which something passed and nothing failed, by the device that it passed on.

    Laws that computed on the named device speak of it alone: what they computed on another one, as
    float64 on the CPU, they compared it with. Laws of the core library speak of none. Certificates
    from before devices were told apart speak of the named device alone.
    """
    named = certificate["device"]
    found: dict[str, list[str]] = {named: []}
    for level in certificate["levels"]:
        passed = [law for law in level["laws"] if law["passed"]]
        if any(law["failed"] for law in level["laws"]):
            continue
        used = [set(law.get("on", {named})) for law in passed]
        devices = set().union(*({named} if named in one else one for one in used))
        for device in sorted(devices):
            found.setdefault(device, []).append(level["level"])
    return found


def describe_passes(certificate: dict[str, Any]) -> str:
    """`passed L0, L2 on gpu, and in float64 L1, L4 on cpu`."""
    device, passed = certificate["device"], list_passed_levels(certificate)
    words = [f"passed {', '.join(passed.pop(device)) or 'nothing'} on {device}"]
    words += [f"in float64 {', '.join(levels)} on {name}" for name, levels in passed.items()]
    return ", and ".join(words)
