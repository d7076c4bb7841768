"""What a run judges: backends, levels, laws and cases, chosen by name."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from hermes.errors import HermesError
from hermes.interface import find_backend
from hermes.model_info.devices import require_device_name
from hermes_conformance.cases.case import Case
from hermes_conformance.laws import LEVELS, Level
from hermes_conformance.measure.law import Law
from hermes_conformance.measure.subject import Backends, BackendUnderTest

DTYPES = ("float32", "float64", "tf32", "bfloat16", "float16")
NAMES = tuple(level.name for level in LEVELS)


@dataclass(frozen=True)
class Selection:
    """What to run; () is everything.

    laws: globs of ids such as `L1/logits`. cases: globs of names. dtypes: formats that laws
    compute in. long: with the bigger models and the slower variants.
    """

    levels: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    long: bool = False

    def list_levels(self) -> tuple[Level, ...]:
        """The selected levels, in order."""
        return tuple(level for level in LEVELS if not self.levels or level.name in self.levels)

    def has_law(self, law: Law) -> bool:
        """Whether this law is selected."""
        matches = not self.laws or any(fnmatchcase(law.id, glob) for glob in self.laws)
        return matches and (not self.dtypes or law.precision in self.dtypes)

    def has_case(self, case: Case) -> bool:
        """Whether this case is selected."""
        return not self.cases or any(fnmatchcase(case.name, glob) for glob in self.cases)

    @property
    def whole(self) -> bool:
        """Whether the selected levels are run whole: then a law without cases is an error."""
        return not (self.laws or self.cases or self.dtypes)


EVERYTHING = Selection()


def load_backends(backend: str, against: str = "numpy", device: str | None = None) -> Backends:
    """Load both backends and the oracle by name. Raises MissingBackend, HermesError."""
    if backend == against:
        raise HermesError(f"{backend!r} against itself proves nothing; choose another --against")
    require_device_name(backend, device)
    subject = BackendUnderTest(find_backend(backend), device)
    reference = BackendUnderTest(find_backend(against))
    if device is not None and device not in subject.backend.devices():
        here = ", ".join(subject.backend.devices())
        raise HermesError(f"{backend} has no device {device!r} here; it has {here}")
    oracle = reference if against == "numpy" else BackendUnderTest(find_backend("numpy"))
    return Backends(subject, reference, oracle)


def make_selection(
    levels: tuple[str, ...] = (),
    laws: tuple[str, ...] = (),
    cases: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = (),
    long: bool = False,
) -> Selection:
    """A selection from levels such as `L1` or `L0-L2`, globs and dtypes. Raises HermesError."""
    wanted: set[str] = set()
    for word in levels:
        first, to, last = word.upper().partition("-")
        if first not in NAMES or (to and last not in NAMES):
            raise HermesError(
                f"level {word!r} is unknown; write one of {', '.join(NAMES)} or a range as L0-L2"
            )
        if last and NAMES.index(last) < NAMES.index(first):
            raise HermesError(f"level {word!r} runs backwards; write {last}-{first}")
        wanted.update(NAMES[NAMES.index(first) : NAMES.index(last or first) + 1])
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise HermesError(f"dtype {dtype!r} is unknown; known are {', '.join(DTYPES)}")
    selection = Selection(
        tuple(name for name in NAMES if name in wanted), laws, cases, dtypes, long
    )
    _require_matches(selection)
    return selection


def _require_matches(selection: Selection) -> None:
    """Refuse a glob that matches nothing, before a framework is loaded. Raises HermesError."""
    levels = selection.list_levels()
    where = f" of {', '.join(selection.levels)}" if selection.levels else ""
    laws = {law.id for level in levels for law in level.laws}
    for glob in selection.laws:
        if not any(fnmatchcase(name, glob) for name in laws):
            raise HermesError(f"no law{where} is called {glob!r}; see hermes conformance list")
    if not selection.cases:
        return
    cases = {
        case.name
        for level in levels
        for case in level.make_cases(selection.long or level.whole_on_gpu)
    }
    for glob in selection.cases:
        if not any(fnmatchcase(name, glob) for name in cases):
            raise HermesError(
                f"no case{where} is called {glob!r}; see hermes conformance list --cases"
            )


def explain_empty_run(selection: Selection, backends: Backends) -> str:
    """Why a selection has no law and case that these backends can run."""
    laws = [law for level in selection.list_levels() for law in level.laws]
    selected = [law for law in laws if selection.has_law(law)]
    if not selected or any(law.can_run(backends) for law in selected):
        return "no chosen law has a chosen case; see hermes conformance list --cases"
    law = selected[0]
    if not backends.subject.trains:
        return f"{law.id} needs a backend that trains; {backends.subject.name} does not"
    if law.needs == "two learners":
        return (
            f"{law.id} needs a reference that trains too, and {backends.reference.name} does not; "
            "choose another --against"
        )
    return f"{law.id} needs a reference that does not train; choose --against numpy"
