"""The source files of a backend's package, and the mutants drawn from them."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from hermes.errors import HermesError, MissingBackend
from hermes.formatting import format_count
from hermes_conformance.mutants.mutations import Mutant, list_mutants

# Files of our backends whose work one process cannot show, or shows in time only.
NOT_JUDGED = {
    "process_group.py": "several processes",
    "rendezvous.py": "several processes",
    "sharding.py": "several processes",
    "global_state.py": "settings of devices and of the process",
    "blas.py": "speed",
}


@dataclass(frozen=True)
class BackendPackage:
    """name: of the top-level package. files: each source text by its path below the package."""

    name: str
    folder: Path
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of all texts with their names."""
        texts = "".join(f"{name}\0{text}\0" for name, text in sorted(self.files.items()))
        return hashlib.sha256(texts.encode("utf-8")).hexdigest()

    def name_module(self, file: str) -> str:
        """`hermes_torch.ops` for ops.py."""
        parts = [self.name, *file.removesuffix(".py").split("/")]
        return ".".join(part for part in parts if part != "__init__")


def find_package(backend: str) -> BackendPackage:
    """The package of a backend's entry point, without importing it.

    Raises MissingBackend for an unknown backend, HermesError for one without source files.
    """
    points = {point.name: point for point in entry_points(group="hermes.backends")}
    if backend not in points:
        raise MissingBackend(
            f"backend {backend!r} is unknown; known are {', '.join(sorted(points))}"
        )
    name = points[backend].module.partition(".")[0]
    spec = find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise HermesError(f"{name}, the package of backend {backend!r}, has no source files here")
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return BackendPackage(name, origin.parent, {origin.name: origin.read_text("utf-8")})
    files = {
        path.relative_to(origin.parent).as_posix(): path.read_text("utf-8")
        for path in sorted(origin.parent.rglob("*.py"))
        if path.name not in NOT_JUDGED
    }
    return BackendPackage(name, origin.parent, files)


def draw_mutants(package: BackendPackage, number: int, seed: int) -> list[Mutant]:
    """`number` mutants of all files, all alike likely: a function of the texts and the seed.

    The first n of a longer draw are the draw of n, and a change of one line exchanges few of them.
    Raises HermesError where there are fewer.
    """
    every = [m for file, text in package.files.items() for m in list_mutants(file, text)]
    if number > len(every):
        raise HermesError(
            f"{package.name} has {format_count(len(every), 'one-token changes')}; --random "
            f"{number} is more"
        )

    def rank(mutant: Mutant) -> bytes:
        text = "\0".join(str(part) for part in (seed, *mutant.key))
        return hashlib.sha256(text.encode("utf-8")).digest()

    return sorted(every, key=rank)[:number]
