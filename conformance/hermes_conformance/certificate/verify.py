"""Whether a certificate still stands: whole, unaltered, of one piece, of what is installed."""

from importlib.metadata import version
from typing import Any

from hermes.interface import find_backend
from hermes_conformance.certificate.issue import FORMAT, digest
from hermes_conformance.golden.vectors import golden_hash
from hermes_conformance.suite.runner import DECLINED, EXPECTED, FAILED, PASSED
from hermes_conformance.suite.selection import every_law

COUNTS = (PASSED, FAILED, DECLINED, EXPECTED)
LAW = {"law": str, "cases": int, **dict.fromkeys(COUNTS, int)}
LEVEL = {"level": str, "passed": bool, "laws": [LAW]}
KNOWN = {"law": str, "case": str, "reason": str}
SHAPE: dict[str, Any] = {
    "backend": str,
    "against": str,
    "device": str,
    "versions": {"hermes": str},
    "passed": bool,
    "whole": bool,
    "chosen": [str],
    "levels": [LEVEL],
    "failures": [dict],
    "expected": [KNOWN],
    "complaints": [str],
    "precisions": [str],
    "conditions": {"date": str},
    "golden": str,
}


def versions_here(value: dict[str, Any]) -> dict[str, str]:
    """Installed versions of what a certificate speaks of: hermes, the oracle's, both sides'."""
    found = {"hermes": version("hermes-llm")}
    for name in ("numpy", value.get("backend"), value.get("against")):
        if isinstance(name, str):
            found |= find_backend(name).versions()
    return found


def check(value: dict[str, Any], installed: dict[str, str] | None = None) -> list[str]:
    """What is wrong with a certificate, or no longer holds; nothing if it stands.

    installed: versions at hand, to compare with those it was made with.
    """
    if value.get("format") != FORMAT:
        return [f"the format is {value.get('format')!r}, this version reads {FORMAT!r}"]
    if broken := _misfit(value, SHAPE, ""):
        return [f"not a whole certificate: {broken}"]
    wrong = []
    if not _intact(value):
        wrong.append("it was altered after it was made: its SHA-256 differs")
    if not value["passed"]:
        wrong.append("the run it describes did not pass")
    wrong += [f"it contradicts itself: {line}" for line in _contradictions(value)]
    if value["golden"] != golden_hash():
        wrong.append("it was made with other golden vectors")
    for name, here in (installed or {}).items():
        made_with = value["versions"].get(name)
        if made_with is None:
            wrong.append(f"it does not say with which {name} it was made; installed is {here}")
        elif made_with != here:
            wrong.append(f"it was made with {name} {made_with}; installed is {here}")
    return wrong


def _intact(value: dict[str, Any]) -> bool:
    try:
        return digest(value) == value.get("sha256")
    except ValueError:  # NaN or infinity, which no certificate is made with
        return False


def _misfit(value: Any, shape: Any, where: str) -> str:
    """The first entry that is missing or of another kind; '' if none is."""
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{where!r} must be a {kind.__name__}; it is {value!r:.40}"
    if isinstance(shape, list):
        inner = ((item, shape[0], f"{where}[{n}]") for n, item in enumerate(value))
        return next(filter(None, (_misfit(*of) for of in inner)), "")
    for name, of in shape.items() if isinstance(shape, dict) else ():
        path = f"{where}.{name}".lstrip(".")
        if name not in value:
            found = of if isinstance(of, type) else type(of)
            return f"{path!r} must be a {found.__name__}; there is none"
        if found := _misfit(value[name], of, path):
            return found
    return ""


def _contradictions(value: dict[str, Any]) -> list[str]:
    """What a certificate says in two ways that no run could both have found."""
    wrong, met = [], dict.fromkeys(COUNTS, 0)
    if not value["levels"]:
        wrong.append("no level was judged")
    for level in value["levels"]:
        for law in level["laws"]:
            name = f"{level['level']}/{law['law']}"
            counts = {kind: law[kind] for kind in COUNTS}
            met = {kind: met[kind] + counts[kind] for kind in COUNTS}
            if min(counts.values()) < 0 or not 0 < law["cases"] == sum(counts.values()):
                wrong.append(f"{name} has {law['cases']} cases, and counts {counts}")
            if _beyond(law) and not law[FAILED] and not law[EXPECTED]:
                wrong.append(f"{name} is beyond its bound, and failed nowhere")
        if level["passed"] != (not any(law[FAILED] for law in level["laws"])):
            verdict = "passed" if level["passed"] else "did not pass"
            wrong.append(f"{level['level']} {verdict}, and its laws say otherwise")
    if value["passed"] and (met[FAILED] or value["failures"] or value["complaints"]):
        wrong.append("it passed, and something failed")
    if value["passed"] and not _asked(value):
        wrong.append("it passed, and nothing that asks the backend did")
    if len(value["expected"]) != met[EXPECTED]:
        wrong.append(f"{met[EXPECTED]} failed as expected, and {len(value['expected'])} are named")
    if value["whole"] == bool(value["chosen"]):
        what = "whole" if value["whole"] else "partial"
        wrong.append(f"it is {what}, and the run was chosen by {value['chosen']}")
    return wrong


def _beyond(law: dict[str, Any]) -> bool:
    ratio = law.get("ratio")
    return isinstance(ratio, int | float) and ratio > 1


def _asked(value: dict[str, Any]) -> bool:
    """Whether a law that asks the backend passed somewhere; what is unknown asks it."""
    silent = {law.id for law in every_law() if law.needs == "nothing"}
    return any(
        law[PASSED] and f"{level['level']}/{law['law']}" not in silent
        for level in value["levels"]
        for law in level["laws"]
    )
