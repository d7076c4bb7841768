"""What hermes installs: licences, Pythons that can install it, and what an audit says of it."""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.specifiers import SpecifierSet

from tests.packages import ROOT

sys.path.insert(0, str(ROOT / ".github"))
import audit_pins
import list_licences

CUDA = re.compile(r"nvidia-|cuda-|triton$")  # what torch brings where it computes on NVIDIA's GPUs
PINS = [
    line.partition("==")[0]
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
]
PAGE = dict(
    re.findall(r"^\| (\S+) \| (.+) \|$", (ROOT / "docs/licences.md").read_text("utf-8"), re.M)
)


def test_every_package_that_hermes_installs_is_listed_and_permissive():
    found = list_licences.list_distributions()
    assert {"numpy", "torch", "mlx", "jinja2", "attrs"} <= set(found)
    for name, package in found.items():
        if CUDA.match(name):
            continue
        licence = list_licences.read_licence(package)
        assert PAGE.get(name) == licence, f"{name}: run make licences"
        permissive = list_licences.is_permissive(licence)
        assert permissive != (name in list_licences.FILE_COPYLEFT), (name, licence)


@pytest.mark.parametrize(
    ("licence", "permissive"),
    [
        ("MIT", True),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-or-later", False),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-2.0-only OR MIT", True),
        ("Apache-2.0 WITH Something-exception", False),
        ("not stated", False),
    ],
)
def test_a_licence_is_permissive_if_all_parts_that_apply_are(licence, permissive):
    assert list_licences.is_permissive(licence) is permissive


@pytest.mark.parametrize("name", PINS)
def test_a_pin_can_be_installed_by_every_python_that_hermes_accepts(name):
    """By 3.11.2 of Debian 12 too, of which pip says only that no version satisfies the pin."""
    try:
        asked = distribution(name).metadata["Requires-Python"] or ""
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    for python in ("3.11.0", "3.11.2", "3.14.0"):
        assert SpecifierSet(asked).contains(python), f"{name} needs Python {asked}"


def plant_answers(monkeypatch, **answers):
    """An audit of two packages for which services answer so."""
    monkeypatch.setattr(audit_pins, "resolve_pins", lambda: ["a==1", "b==2"])
    monkeypatch.setattr(audit_pins, "ask_for_advisories", lambda pins, service: answers[service])


SAFE = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}
KNOWN = {"id": "PYSEC-1", "fix_versions": ["3"], "aliases": ["CVE-1"]}


def test_what_nobody_could_be_asked_about_is_not_called_safe(monkeypatch):
    plant_answers(monkeypatch, pypi=[SAFE, SKIPPED], osv=None)
    assert audit_pins.audit_pins() == (
        "Error: 1 of 2 packages could not be compared with the known advisories; run this where "
        "the package index or OSV answers"
    )
    plant_answers(monkeypatch, pypi=None, osv=None)
    assert audit_pins.audit_pins() == (
        "Error: none of the 2 packages could be compared with the known advisories; run this "
        "where the package index or OSV answers"
    )
    plant_answers(monkeypatch, pypi=[SAFE, SKIPPED], osv=[SAFE, SAFE])
    assert audit_pins.audit_pins() is None


def test_an_advisory_is_named_with_its_fix_unless_it_is_accepted(monkeypatch):
    plant_answers(monkeypatch, pypi=[SAFE, {"name": "b", "version": "2", "vulns": [KNOWN]}])
    assert audit_pins.audit_pins() == "Error: known advisories:\n  b 2: PYSEC-1, fixed in 3"
    monkeypatch.setitem(audit_pins.ACCEPTED, "CVE-1", "a feature that hermes does not use")
    assert audit_pins.audit_pins() is None
