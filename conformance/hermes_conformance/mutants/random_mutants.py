"""Draw one-token changes of a backend's source, and let the suite find them.

Planted faults show that the suite finds what its authors thought of; these show what it finds of
changes that nobody thought of. Each is judged in a process of its own and in memory: no source
file is written.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hermes.errors import HermesError
from hermes_conformance.mutants.backend_package import BackendPackage, draw_mutants, find_package
from hermes_conformance.mutants.equivalents import find_equivalents
from hermes_conformance.mutants.mutations import Mutant

RECORD_SECONDS = 3600  # of processor time, of the suite on the backend as it is
CPU_FACTOR, CPU_SECONDS = 10, 30  # a child may take so many times what its checks took, and more
WALL_FACTOR = 20  # of the limit of processor time, for what waits instead of computing
MEMORY = 8 << 30  # bytes of data of a child

Message = dict[str, Any]
Key = tuple[str, str, str, str, int]


@dataclass(frozen=True)
class MutantResult:
    """A mutant and what became of it.

    file: below the package. before, after: the changed lines. caught: whether a check told it from
    the right text. how: the check and its error, or why none could. equivalent: why nothing could
    tell it, where it is known not to change anything; such a one is not judged. ran: how many
    checked cases run the line.
    """

    file: str
    line: int
    function: str
    before: str
    after: str
    occurrence: int
    caught: bool
    how: str
    equivalent: str
    ran: int
    seconds: float

    @property
    def survived(self) -> bool:
        """Whether the suite missed it and it is not known to change nothing."""
        return not self.caught and not self.equivalent

    @property
    def key(self) -> Key:
        """As Mutant.key."""
        return self.file, self.function, self.before, self.after, self.occurrence


def run_random_mutants(
    backend: str,
    number: int,
    seed: int = 0,
    against: str = "numpy",
    device: str | None = None,
    *,
    done: tuple[MutantResult, ...] = (),
    report: Callable[[str], None] = lambda text: None,
) -> Iterator[MutantResult]:
    """Draw `number` mutants of a backend and judge each by the suite alone.

    done: results that an earlier call with the same texts had; they are yielded again and not
    judged. report: told what is being done. The order and the choice follow from the seed.

    Raises MissingBackend, and HermesError where the suite fails without a change or the backend has
    fewer changes.
    """
    package = find_package(backend)
    mutants = draw_mutants(package, number, seed)
    earlier = {result.key: result for result in done}
    with _Judge(backend, against, device, package) as judge:
        for count, mutant in enumerate(mutants, 1):
            # Read anew each time: one looks at survivors and lists them while others are judged.
            known = [e for e in find_equivalents(package) if e.is_about(package.name, mutant)]
            if any(e.device for e in known):
                here = judge.find_device(report)
                known = [e for e in known if e.is_true_on(here)]
            entry = known[0] if known else None
            if entry is not None and not entry.unreached:
                yield _make_result(mutant, False, "", entry.why, 0, 0.0)
                continue
            if mutant.key in earlier and not earlier[mutant.key].equivalent:
                yield earlier[mutant.key]
                continue
            report(f"{count} of {number}: {package.name}/{mutant.file}:{mutant.line}")
            result = judge.judge(mutant, report)
            if entry is not None and not result.ran:
                result = replace(result, equivalent=entry.why)
            yield result


def _make_result(
    mutant: Mutant, caught: bool, how: str, equivalent: str, ran: int, seconds: float
) -> MutantResult:
    return MutantResult(
        mutant.file,
        mutant.line,
        mutant.function,
        mutant.before,
        mutant.after,
        mutant.occurrence,
        caught,
        how,
        equivalent,
        ran,
        seconds,
    )


class _Judge:
    """The server process, what it recorded of the backend as it is, and one request at a time."""

    def __init__(self, backend: str, against: str, device: str | None, package: BackendPackage):
        self._package = package
        self._common = {
            "backend": backend,
            "against": against,
            "device": device,
            "package": package.name,
            "folder": str(package.folder),
            "memory": MEMORY,
        }
        self._process: subprocess.Popen[str] | None = None
        self._recorded: Message = {}

    def __enter__(self) -> "_Judge":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()

    def find_device(self, report: Callable[[str], None]) -> str:
        """The device that the backend is judged on."""
        if not self._recorded:
            self._record(report)
        return str(self._recorded["device"])

    def judge(self, mutant: Mutant, report: Callable[[str], None]) -> MutantResult:
        """Judge one mutant by the checks that run its statement, the quickest first."""
        if not self._recorded:
            self._record(report)
        began = time.perf_counter()
        units = sorted(self._find_units(mutant), key=lambda unit: unit["seconds"])
        if not units:
            return _make_result(mutant, False, "no check runs this line", "", 0, 0.0)
        seconds = int(CPU_SECONDS + CPU_FACTOR * sum(unit["seconds"] for unit in units))
        request = {
            "action": "judge",
            "module": self._package.name_module(mutant.file),
            "text": mutant.change(self._package.files[mutant.file]),
            "units": [(unit["level"], unit["case"], unit["declined"]) for unit in units],
            "trains": self._recorded["trains"],
            "cpu_seconds": seconds,
            "wall_seconds": WALL_FACTOR * seconds,
        }
        how = str(self._ask(request)["how"])
        seen = how or "every check that runs this line passes"
        elapsed = time.perf_counter() - began
        return _make_result(mutant, bool(how), seen, "", len(units), elapsed)

    def _find_units(self, mutant: Mutant) -> list[Message]:
        """The units that run the mutant's statement: all of them, if importing the file does."""
        first, last = mutant.statement
        units: list[Message] = self._recorded["units"]
        if not last:
            return units
        return [
            unit
            for unit in units
            if any(first <= line <= last for line in unit["lines"].get(mutant.file, ()))
        ]

    def _record(self, report: Callable[[str], None]) -> None:
        """Run the suite on the backend as it is, and prepare the server for what follows."""
        report("judging the backend without a change")
        limits = {"cpu_seconds": RECORD_SECONDS, "wall_seconds": WALL_FACTOR * RECORD_SECONDS}
        recorded = self._ask({"action": "record", **limits})
        if "how" in recorded:
            raise HermesError(f"the suite cannot judge the backend as it is: {recorded['how']}")
        if recorded["wrong"]:
            first = ", ".join(recorded["wrong"][:3])
            raise HermesError(f"the suite fails without a change: {first}; mend that first")
        self._recorded = recorded
        report("importing what the backend needs")
        if sys.platform == "linux":
            answer = self._ask({"action": "import", "modules": recorded["modules"]})
            if not answer["single"]:
                self.__exit__()
                self._process = None

    def _ask(self, request: Message) -> Message:
        """The server's answer. Raises HermesError where the server has ended."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(self._common | request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise HermesError("the process that judges mutants has ended by itself")
        answer: Message = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        """Start the server with this process's paths; one thread each keeps a machine usable."""
        environment = {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "MLX_ENABLE_TF32": "0",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hermes_conformance.mutants.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self._process
