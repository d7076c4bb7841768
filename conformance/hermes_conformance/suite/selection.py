"""A run from beginning to end, as the command line and the pytest plugin have it."""

from collections.abc import Iterable
from datetime import date
from fnmatch import fnmatchcase

from hermes.errors import HermesError
from hermes.interface import find_backend
from hermes_conformance.laws import LEVELS
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.suite.runner import DTYPES, PASSED, Outcome, Selection
from hermes_conformance.suite.xfail import ExpectedFailure, excused

__all__ = ["chosen", "excused_today", "sides_of"]

NAMES = tuple(level.name for level in LEVELS)


def sides_of(backend: str, against: str = "numpy", device: str | None = None) -> Sides:
    """Both backends by name, their frameworks loaded now. Raises MissingBackend, HermesError."""
    if backend == against:
        raise HermesError(f"{backend!r} against itself proves nothing; choose another --against")
    subject, reference = (
        BackendUnderTest(find_backend(backend), device),
        BackendUnderTest(find_backend(against)),
    )
    if device is not None and device not in subject.backend.devices():
        here = ", ".join(subject.backend.devices())
        raise HermesError(f"{backend} has no device {device!r} here; it has {here}")
    oracle = reference if against == "numpy" else BackendUnderTest(find_backend("numpy"))
    return Sides(subject, reference, oracle)


def chosen(
    levels: tuple[str, ...] = (),
    laws: tuple[str, ...] = (),
    cases: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = (),
    long: bool = False,
) -> Selection:
    """A selection from words such as `L1`, `L0-L2`, globs and dtypes. Raises HermesError."""
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
    _require_names(selection)
    return selection


def started_with(
    names: tuple[str, str, str | None], dtypes: tuple[str, ...] = (), long: bool = False
) -> list[str]:
    """The command line of a run, its laws and cases left out.

    names: of the subject, of the reference, and of the device or None.
    """
    backend, against, device = names
    words = ["hermes", "conformance", "run", "--backend", backend, "--against", against]
    words += ["--device", device] if device else []
    words += [word for dtype in dtypes for word in ("--dtype", dtype)]
    return words + (["--long"] if long else [])


def nothing_to_judge(selection: Selection, sides: Sides) -> str:
    """Why no chosen law has a chosen case between these two sides."""
    laws = [law for level in selection.of_levels() for law in level.laws]
    chosen_laws = [law for law in laws if selection.takes_law(law)]
    if not chosen_laws or any(law.possible(sides) for law in chosen_laws):
        return "no chosen law has a chosen case; see hermes conformance list --cases"
    law = chosen_laws[0]
    if not sides.subject.trains:
        return f"{law.id} asks a backend that trains; {sides.subject.name} does not"
    if law.needs == "peer":
        return (
            f"{law.id} asks a reference that trains too, and {sides.reference.name} does not; "
            "choose another --against"
        )
    return f"{law.id} asks a reference that does not train; choose --against numpy"


def certified(outcomes: Iterable[Outcome]) -> bool:
    """Whether something that asks the backend passed."""
    return any(o.status == PASSED and o.law.needs != "nothing" for o in outcomes)


def _require_names(selection: Selection) -> None:
    """Refuse a glob that fits nothing, before a framework is loaded."""
    levels = selection.of_levels()
    of = f" of {', '.join(selection.levels)}" if selection.levels else ""
    laws = {law.id for level in levels for law in level.laws}
    for glob in selection.laws:
        if not any(fnmatchcase(name, glob) for name in laws):
            raise HermesError(f"no law{of} is called {glob!r}; see hermes conformance list")
    if not selection.cases:
        return
    cases = {case.name for level in levels for case in level.cases(selection.long)}
    for glob in selection.cases:
        if not any(fnmatchcase(name, glob) for name in cases):
            raise HermesError(
                f"no case{of} is called {glob!r}; see hermes conformance list --cases"
            )


def excused_today(outcomes, waivers: tuple[ExpectedFailure, ...]):
    """`waivers.excused` as of today."""
    return excused(outcomes, waivers, date.today())


def every_law() -> tuple[Law, ...]:
    """The laws of all levels in order."""
    return tuple(law for level in LEVELS for law in level.laws)
