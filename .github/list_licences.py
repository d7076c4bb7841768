"""List the licences of everything that `pip install hermes-llm[all]` brings: `make licences`.

Prints the page docs/licences.md. What is installed is asked, package by package, beginning with the
requirements in pyproject.toml.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Licences of what hermes installs

hermes itself has the MIT licence. `pip install hermes-llm[all]` brings the packages below. All
have permissive licences but for two under the MPL 2.0, which asks that changes to their own files
stay open and nothing of what uses them. Builds of PyTorch for CUDA bring NVIDIA's libraries besides
(`nvidia-*`, `cuda-*`), under NVIDIA's own terms.

This page is made by `make licences`; a test compares it with what is installed.

| package | licence |
|---|---|
"""
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
    *("CNRI-Python", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib"),
    "LLVM-exception",  # permits more than the Apache-2.0 before it
}
FILE_COPYLEFT = {"certifi", "tqdm"}  # MPL-2.0
# Words of classifiers and of free text, and the SPDX identifier that they mean.
SPDX = {
    "apache 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "3-clause bsd license": "BSD-3-Clause",
}


def list_requirements(lines: Iterable[str], extras: Iterable[str]) -> list[Requirement]:
    """Those of the lines that count on this machine with these extras."""
    found = [Requirement(line) for line in lines]
    environments = [{"extra": extra} for extra in ("", *extras)]
    return [
        one
        for one in found
        if one.marker is None or any(one.marker.evaluate(given) for given in environments)
    ]


def list_distributions() -> dict[str, Distribution]:
    """Each package that hermes-llm[all] needs here and that is installed, by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = project["optional-dependencies"]
    lines = list(project["dependencies"])
    for extra in Requirement(own["all"][0]).extras:
        lines += own[extra]
    waiting, found = list_requirements(lines, ()), dict[str, Distribution]()
    asked = set[tuple[str, tuple[str, ...]]]()
    while waiting:
        one = waiting.pop()
        name, extras = canonicalize_name(one.name), tuple(sorted(one.extras))
        if (name, extras) in asked:
            continue
        asked.add((name, extras))
        try:
            found[name] = distribution(one.name)
        except PackageNotFoundError:
            continue
        waiting += list_requirements(found[name].requires or [], extras)
    return dict(sorted(found.items()))


def read_licence(package: Distribution) -> str:
    """Its licence as an SPDX expression, or in its own words where those name none."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    text = str(metadata.get("License") or "").strip()
    if re.fullmatch(r"[A-Za-z0-9.-]+( (AND|OR) [A-Za-z0-9.-]+)*", text) and text != "UNKNOWN":
        return SPDX.get(text.lower(), text)
    words = [
        one.rpartition(" :: ")[2]
        for one in metadata.get_all("Classifier") or []
        if one.startswith("License ::") and not one.endswith("OSI Approved")
    ] or [text.splitlines()[0] if text else "not stated"]
    return " AND ".join(SPDX.get(word.lower(), word) for word in words)


def is_permissive(licence: str) -> bool:
    """Whether each part that applies asks for no more than its notice."""
    return any(
        set(re.split(r" (?:AND|WITH) ", one.strip("()"))) <= PERMISSIVE
        for one in licence.split(" OR ")
    )


def write_page() -> str:
    """The page: a row for each package."""
    rows = (f"| {name} | {read_licence(one)} |\n" for name, one in list_distributions().items())
    return HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(write_page())
