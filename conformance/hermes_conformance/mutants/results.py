"""Results of random mutants in a file: written after each, so that a stopped run is resumed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hermes.storage.durable import write_atomically
from hermes.storage.plain_json import load_json
from hermes_conformance.mutants.backend_package import find_package
from hermes_conformance.mutants.random_mutants import MutantResult

SUITE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Header:
    """What results depend on. package, suite: SHA-256 of the sources of backend and suite."""

    backend: str
    against: str
    device: str | None
    seed: int
    package: str
    suite: str


def make_header(backend: str, against: str, device: str | None, seed: int) -> Header:
    """The header of a run that begins now. Raises as find_package."""
    digest = hashlib.sha256()
    for path in sorted(SUITE.rglob("*.py")):
        digest.update(f"{path.relative_to(SUITE).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    package = find_package(backend).digest
    return Header(backend, against, device, seed, package, digest.hexdigest())


def write_results(path: Path, header: Header, results: Sequence[MutantResult]) -> None:
    """Write the header, how many results there are of each kind, and all results. Atomic."""
    text = json.dumps({**asdict(header), **count_results(results), "results": _list(results)})
    write_atomically(path, f"{text}\n".encode())


def _list(results: Sequence[MutantResult]) -> list[dict[str, Any]]:
    return [asdict(result) for result in results]


def count_results(results: Sequence[MutantResult]) -> dict[str, int]:
    """How many were drawn, and how many of these are caught, equivalent and survivors."""
    return {
        "drawn": len(results),
        "caught": sum(result.caught for result in results),
        "equivalent": sum(bool(result.equivalent) for result in results),
        "survived": sum(result.survived for result in results),
    }


def read_results(path: Path, header: Header) -> tuple[MutantResult, ...]:
    """The results of a file that write_results wrote with the same header; none of any other."""
    try:
        value = load_json(path.read_text(encoding="utf-8"))
        if any(value[key] != wanted for key, wanted in asdict(header).items()):
            return ()
        return tuple(MutantResult(**result) for result in value["results"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()  # not ours, or of an older suite: written anew
