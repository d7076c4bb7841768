"""Whether a certificate still holds: complete, unaltered, consistent, and of what is installed."""

from importlib.metadata import version
from typing import Any

from hermes.formatting import format_count
from hermes.interface import find_backend
from hermes_conformance.certificate.issue import FORMAT, digest
from hermes_conformance.golden.vectors import hash_golden_folder
from hermes_conformance.laws import list_laws
from hermes_conformance.suite.report import STATUSES
from hermes_conformance.suite.runner import EXPECTED, FAILED, PASSED

LAW: dict[str, type] = {"law": str, "cases": int, **dict.fromkeys(STATUSES, int)}
LEVEL = {"level": str, "passed": bool, "laws": [LAW]}
EXPECTED_FAILURE = {"law": str, "case": str, "reason": str}
SCHEMA: dict[str, Any] = {
    "backend": str,
    "against": str,
    "device": str,
    "versions": {"hermes": str},
    "passed": bool,
    "whole": bool,
    "chosen": [str],
    "levels": [LEVEL],
    "failures": [dict],
    "expected": [EXPECTED_FAILURE],
    "complaints": [str],
    "precisions": [str],
    "conditions": {"date": str},
    "golden": str,
}


def read_installed_versions(certificate: dict[str, Any]) -> dict[str, str]:
    """Installed versions of what a certificate is about: hermes, the oracle, and both backends."""
    versions = {"hermes": version("hermes-llm")}
    for name in ("numpy", certificate.get("backend"), certificate.get("against")):
        if isinstance(name, str):
            versions |= find_backend(name).versions()
    return versions


def check_certificate(
    certificate: dict[str, Any], installed: dict[str, str] | None = None
) -> list[str]:
    """What is wrong with a certificate, or no longer true; nothing if it holds.

    installed: versions to compare with those that the certificate was made with.
    """
    if certificate.get("format") != FORMAT:
        return [f"the format is {certificate.get('format')!r}, this version reads {FORMAT!r}"]
    if broken := _find_misfit(certificate, SCHEMA, "") or _find_wrong_devices(certificate):
        return [f"not a whole certificate: {broken}"]
    wrong = []
    if not _is_intact(certificate):
        wrong.append("it was altered after it was made: its SHA-256 differs")
    if not certificate["passed"]:
        wrong.append("the run it describes did not pass")
    wrong += [f"it contradicts itself: {line}" for line in _find_contradictions(certificate)]
    if certificate["golden"] != hash_golden_folder():
        wrong.append("it was made with other golden vectors")
    for name, here in (installed or {}).items():
        made_with = certificate["versions"].get(name)
        if made_with is None:
            wrong.append(f"it does not say with which {name} it was made; installed is {here}")
        elif made_with != here:
            wrong.append(f"it was made with {name} {made_with}; installed is {here}")
    return wrong


def _is_intact(certificate: dict[str, Any]) -> bool:
    try:
        return digest(certificate) == certificate.get("sha256")
    except ValueError:  # NaN or infinity, which `digest` refuses
        return False


def _find_misfit(value: Any, schema: Any, where: str) -> str:
    """The first entry that is missing or of another type than the schema's; '' if none is."""
    kind: Any = schema if isinstance(schema, type) else type(schema)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{where!r} must be a {kind.__name__}; it is {value!r:.40}"
    if isinstance(schema, list):
        misfits = (_find_misfit(item, schema[0], f"{where}[{n}]") for n, item in enumerate(value))
        return next(filter(None, misfits), "")
    for name, inner in schema.items() if isinstance(schema, dict) else ():
        path = f"{where}.{name}".lstrip(".")
        if name not in value:
            expected = inner if isinstance(inner, type) else type(inner)
            return f"{path!r} must be a {expected.__name__}; there is none"
        if misfit := _find_misfit(value[name], inner, path):
            return misfit
    return ""


def _find_wrong_devices(certificate: dict[str, Any]) -> str:
    """The first law whose passes by device, which older certificates lack, are no counts."""
    laws = [law for level in certificate["levels"] for law in level["laws"]]
    counts = (_find_misfit(law.get("on", {}), {}, f"{law['law']}.on") for law in laws)
    return next(filter(None, counts), "")


def _find_contradictions(certificate: dict[str, Any]) -> list[str]:
    """Pairs of entries that no run could both have found."""
    wrong, totals = [], dict.fromkeys(STATUSES, 0)
    if not certificate["levels"]:
        wrong.append("no level was judged")
    for level in certificate["levels"]:
        for law in level["laws"]:
            name = f"{level['level']}/{law['law']}"
            counts = {status: law[status] for status in STATUSES}
            totals = {status: totals[status] + counts[status] for status in STATUSES}
            if min(counts.values()) < 0 or not 0 < law["cases"] == sum(counts.values()):
                wrong.append(
                    f"{name} has {format_count(law['cases'], 'cases')}, and counts {counts}"
                )
            on = law.get("on", {})
            if not all(isinstance(n, int) and 0 < n <= counts[PASSED] for n in on.values()):
                wrong.append(f"{name} counts {counts}, and passes on {on}")
            if _is_beyond_bound(law) and not law[FAILED] and not law[EXPECTED]:
                wrong.append(f"{name} is beyond its bound, and failed nowhere")
        laws = level["laws"]
        sound = not any(law[FAILED] for law in laws)
        if any("on" in law for law in laws):
            sound = sound and any(law[PASSED] for law in laws)
        if level["passed"] != sound:
            verdict = "passed" if level["passed"] else "did not pass"
            wrong.append(f"{level['level']} {verdict}, and its laws say otherwise")
    passed = certificate["passed"]
    if passed and (totals[FAILED] or certificate["failures"] or certificate["complaints"]):
        wrong.append("it passed, and something failed")
    if passed and not _has_backend_pass(certificate):
        wrong.append("it passed, and no law that needs the backend did")
    if len(certificate["expected"]) != totals[EXPECTED]:
        wrong.append(
            f"{totals[EXPECTED]} failed as expected, and {len(certificate['expected'])} are named"
        )
    if certificate["whole"] == bool(certificate["chosen"]):
        what = "whole" if certificate["whole"] else "partial"
        wrong.append(f"it is {what}, and the run was chosen by {certificate['chosen']}")
    if certificate["whole"] and (missing := _list_missing_laws(certificate)):
        more = f" and {len(missing) - 1:,} more" if missing[1:] else ""
        wrong.append(f"it is whole, and lacks {missing[0]}{more}")
    if unproven := sorted(set(certificate["precisions"]) - _list_judged_precisions(certificate)):
        wrong.append(f"it was judged in {unproven[0]}, and no law of that precision was")
    return wrong


def _list_missing_laws(certificate: dict[str, Any]) -> list[str]:
    """The laws that a whole run judges and this one has not, of backends of its kind."""
    judged = {f"{level['level']}/{law['law']}" for level in certificate["levels"]
              for law in level["laws"]}  # fmt: skip
    kinds = {"no backend", "forward"} | {law.needs for law in list_laws() if law.id in judged}
    asked = (law for law in list_laws() if law.needs in kinds and not law.long)
    return [law.id for law in asked if law.id not in judged]


def _list_judged_precisions(certificate: dict[str, Any]) -> set[str]:
    """The formats of the laws that were judged on the device."""
    known, device = {law.id: law.precision for law in list_laws()}, certificate["device"]
    found = set()
    for level in certificate["levels"]:
        for law in level["laws"]:
            precision = known.get(f"{level['level']}/{law['law']}")
            passed = law[PASSED] and device in law.get("on", {device: 1})
            if precision and (passed or law[FAILED] or law[EXPECTED]):
                found.add(precision)
    return found


def _is_beyond_bound(law: dict[str, Any]) -> bool:
    ratio = law.get("ratio")
    return isinstance(ratio, int | float) and ratio > 1


def _has_backend_pass(certificate: dict[str, Any]) -> bool:
    """Whether a law that needs the backend passed on the device; an unknown law counts as one."""
    core = {law.id for law in list_laws() if law.needs == "no backend"}
    device = certificate["device"]
    return any(
        law[PASSED]
        and law.get("on", {device: 1}).get(device)
        and f"{level['level']}/{law['law']}" not in core
        for level in certificate["levels"]
        for law in level["laws"]
    )
