"""Compare everything that the pins in constraints.txt install with known advisories: `make audit`.

pip resolves hermes-llm with all its extras, installing nothing, and pip-audit asks the package
index, or else OSV, about each version. What nobody could be asked about fails; it is not safe.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = "all,test,interop-test,lint,docs"
ACCEPTED: dict[str, str] = {}  # advisories that do not concern hermes: identifier -> why


def resolve_pins() -> list[str]:
    """name==version of each package, hermes itself left out. Ends with a sentence if pip cannot."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        pip += ["--dry-run", "--ignore-installed", "--report", str(report)]
        pins = ["--constraint", str(ROOT / "constraints.txt")]
        done = subprocess.run(
            [*pip, *pins, f"{ROOT}[{EXTRAS}]"], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            sys.exit(
                "Error: pip cannot resolve the pins, so nothing was audited; without a network "
                f"nobody can be asked\n{done.stderr[-2000:]}"
            )
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = {one["metadata"]["name"]: one["metadata"]["version"] for one in found}
    packages.pop("hermes-llm", None)
    # An advisory is about 2.13.0, whatever a build of it calls itself (2.13.0+cpu).
    return sorted(f"{name}=={version.partition('+')[0]}" for name, version in packages.items())


def ask_for_advisories(pins: list[str], service: str) -> list[dict[str, Any]] | None:
    """What pip-audit knows of each pin; None where its service cannot be reached."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "pins.txt")
        listed.write_text("\n".join(pins), encoding="utf-8")
        words = ["--requirement", str(listed), "--no-deps", "--disable-pip", "--format", "json"]
        words += ["--vulnerability-service", service, "--progress-spinner", "off"]
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", *words], capture_output=True, text=True, check=False
        )
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        print(f"{service} cannot be asked: {reason[0]}", file=sys.stderr)
        return None


def describe_findings(found: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """A line for each advisory that is not accepted, and packages nobody was asked about."""
    advisories = [
        f"{one['name']} {one['version']}: {known['id']}"
        f"{', fixed in ' + ', '.join(known['fix_versions']) if known['fix_versions'] else ''}"
        for one in found
        for known in one.get("vulns", ())
        if not {known["id"], *known.get("aliases", ())} & set(ACCEPTED)
    ]
    return advisories, [one["name"] for one in found if "skip_reason" in one]


def audit_pins() -> str | None:
    """The sentence to end with; None where every pin was asked about and none is known."""
    print("resolving the pins, some minutes", file=sys.stderr)
    pins = resolve_pins()
    unknown: list[str] = []
    for service in ("pypi", "osv"):
        print(f"asking {service} about {len(pins)} packages", file=sys.stderr)
        found = ask_for_advisories(pins, service)
        if found is None:
            continue
        advisories, unknown = describe_findings(found)
        if advisories:
            return "Error: known advisories:\n  " + "\n  ".join(advisories)
        if not unknown:
            print(f"{len(pins)} packages, none with a known advisory ({service})")
            return None
        print(f"{service} knows nothing of {len(unknown)} of {len(pins)} packages", file=sys.stderr)
    what = f"{len(unknown)} of {len(pins)}" if unknown else f"none of the {len(pins)}"
    return (
        f"Error: {what} packages could {'not ' if unknown else ''}be compared with the known "
        "advisories; run this where the package index or OSV answers"
    )


if __name__ == "__main__":
    sys.exit(audit_pins())
