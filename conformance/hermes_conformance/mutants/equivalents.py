"""Changes that no check can tell from the right text, each with the reason.

    [[equivalent]]
    package = "hermes_torch"
    file = "learner.py"
    function = "Learner.__init__"
    before = "self._distributed = process_group.rank_info.world_size > 1"
    after = "self._distributed = process_group.rank_info.world_size > 2"
    why = "one process has a world size of 1"
    unreached = true    # optional: only where no check runs the line, as one for a GPU on a CPU
    device = "cpu"      # optional: only where the backend is judged on a device of this kind

Entries are of texts, not of line numbers, so that they stay when other lines change. Those of our
backends are in equivalents.toml beside this file; a third party's are in the equivalents.toml of
its own package.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes_conformance.mutants.backend_package import BackendPackage
from hermes_conformance.mutants.mutations import Mutant
from hermes_conformance.suite.toml_entries import read_entries

NAME = "equivalents.toml"
KEYS = ("package", "file", "function", "before", "after", "why")


@dataclass(frozen=True)
class Equivalent:
    """One entry. why: the reason that nothing could tell it from the right text.

    unreached: it holds only where no check runs the line, on a device that the line is not for.
    device: the kind of device on which it holds, `cuda` for `cuda:0`; None for all.
    """

    package: str
    file: str
    function: str
    before: str
    after: str
    why: str
    unreached: bool = False
    device: str | None = None

    def is_about(self, package: str, mutant: Mutant) -> bool:
        """Whether this is the entry of a mutant."""
        mine = self.package, self.file, self.function, self.before, self.after
        return mine == (package, mutant.file, mutant.function, mutant.before, mutant.after)

    def is_true_on(self, device: str) -> bool:
        """Whether it holds where a backend computes on `device`, such as `cuda:0`."""
        return self.device in (None, device.partition(":")[0])


def read_equivalents(path: Path) -> tuple[Equivalent, ...]:
    """The entries of a file. Raises HermesError for one that is damaged."""
    entries = enumerate(read_entries(path, "equivalent"), 1)
    return tuple(_parse_entry(path, number, entry) for number, entry in entries)


def _parse_entry(path: Path, number: int, entry: Any) -> Equivalent:
    if not isinstance(entry, dict) or set(entry) - {"unreached", "device"} != set(KEYS):
        raise HermesError(f"{path}: entry {number} needs exactly {', '.join(KEYS)}")
    if not isinstance(entry.get("unreached", False), bool):
        raise HermesError(f"{path}: entry {number}: unreached must be true or false")
    device = entry.get("device", "cpu")
    if not isinstance(device, str) or not device.isidentifier():
        raise HermesError(f"{path}: entry {number}: device must be a kind, as cpu or cuda")
    for key in KEYS:
        if not isinstance(entry[key], str) or (key != "function" and not entry[key].strip()):
            raise HermesError(f"{path}: entry {number}: {key} must be a text")
    return Equivalent(**entry)


def find_equivalents(package: BackendPackage) -> tuple[Equivalent, ...]:
    """The entries about a package: the suite's, and those that the package brings itself."""
    own = package.folder / NAME
    entries = read_equivalents(Path(__file__).with_name(NAME))
    if own.is_file() and len(package.files) > 1:
        entries += read_equivalents(own)
    return tuple(entry for entry in entries if entry.package == package.name)
