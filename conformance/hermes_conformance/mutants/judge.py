"""What a process does for one backend text: record what the suite runs of it, or judge a mutant.

Both are called in a process of their own (server.py). The unit of both is a level with a case:
all laws that apply to it. The laws that need no backend are left out: no change can fail them.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from hermes_conformance.cases.case import Case
from hermes_conformance.laws import LEVELS, Level
from hermes_conformance.laws.canary import explain_refusal
from hermes_conformance.measure.law import Law
from hermes_conformance.measure.subject import Backends
from hermes_conformance.mutants.import_hook import install_text
from hermes_conformance.suite.runner import DECLINED, FAILED, Outcome, judge_case
from hermes_conformance.suite.selection import load_backends

Message = dict[str, Any]
CANARY = "canary"


def prepare_cases() -> None:
    """Make what all processes need and no backend changes: the cases, weights and batches."""
    for level in LEVELS:
        for case in level.make_cases(False):
            _ = case.weights, case.batch


def list_units(backends: Backends) -> Iterator[tuple[Level, Case | None, list[Law]]]:
    """Each level's canary, where it has one (case None), and its cases, with the laws to judge."""
    seen: set[str] = set()
    for level in LEVELS:
        laws = [
            law
            for law in level.laws
            if law.needs != "no backend" and not law.long and law.can_run(backends)
        ]
        if laws and level.canary and CANARY not in seen:
            seen.add(CANARY)
            yield level, None, []
        for case in level.make_cases(False):
            chosen = [law for law in laws if law.applies_to(case)]
            if chosen:
                yield level, case, chosen


class _LineRecorder:
    """Which lines of the files below a folder run, by sys.settrace."""

    def __init__(self, folder: Path):
        self._folder = str(folder) + "/"
        self._tracers: dict[str, Any] = {}
        self.lines: dict[str, set[int]] = {}

    def __enter__(self) -> "_LineRecorder":
        self._tracers, self.lines = {}, {}
        sys.settrace(self._trace_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace_call(self, frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        if name not in self._tracers:
            self._tracers[name] = self._make_tracer(name)
        return self._tracers[name]

    def _make_tracer(self, name: str) -> Any:
        """What the lines of a file are told to, None for a file elsewhere."""
        if not name.startswith(self._folder):
            return None
        add = self.lines.setdefault(name[len(self._folder) :], set()).add

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            add(frame.f_lineno)
            return trace

        return trace


def clear_caches(package: str) -> None:
    """Empty functools' caches of a package, so that what a case needs runs in that case."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package:
            spaces = [
                vars(module),
                *(vars(c) for c in vars(module).values() if isinstance(c, type)),
            ]
            for value in [value for space in spaces for value in space.values()]:
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def record(request: Message) -> Message:
    """Judge the backend as it is: of each unit its time, its outcomes and the lines that run."""
    backends = load_backends(request["backend"], request["against"], request["device"])
    recorder, units, wrong = _LineRecorder(Path(request["folder"])), [], []
    with recorder:
        trains = backends.subject.trains
    for level, case, laws in list_units(backends):
        began, declined = time.process_time(), []
        clear_caches(request["package"])
        with recorder:
            if case is None:
                refusal = explain_refusal(backends.subject)
                wrong += [f"{level.name} is refused: {refusal}"] if refusal else []
            else:
                outcomes = [judge_case(law, case, backends) for law in laws]
                declined = [o.law.id for o in outcomes if o.status == DECLINED]
                wrong += [f"{o.law.id} on {o.case}" for o in outcomes if o.status == FAILED]
        units.append(
            {
                "level": level.name,
                "case": CANARY if case is None else case.name,
                "seconds": time.process_time() - began,
                "declined": declined,
                "lines": {file: sorted(lines) for file, lines in recorder.lines.items()},
            }
        )
    modules = [name for name in sys.modules if name.partition(".")[0] != request["package"]]
    device = backends.subject.device_name
    return {
        "units": units,
        "wrong": wrong,
        "trains": trains,
        "device": device,
        "modules": modules,
    }


def judge(request: Message) -> Message:
    """Judge the backend with one file's text changed, until a check tells it apart.

    The request has the units in the order to judge them in. -> "how" it was told apart, or "".
    """
    install_text(request["module"], request["text"])
    try:
        backends = load_backends(request["backend"], request["against"], request["device"])
        trains = backends.subject.trains
    except Exception as error:
        return {"how": f"cannot be loaded: {type(error).__name__}: {_shorten(error)}"}
    if trains != request["trains"]:
        return {"how": f"{'trains' if trains else 'does not train'}, unlike the backend as it is"}
    units = {
        (level.name, CANARY if case is None else case.name): (case, laws)
        for level, case, laws in list_units(backends)
    }
    for level_name, case_name, declined in request["units"]:
        case, laws = units[level_name, case_name]
        if case is None:
            if (why := _find_refusal(backends)) is not None:
                return {"how": f"{level_name} is refused: {why}"}
            continue
        for law in laws:
            outcome = judge_case(law, case, backends)
            if outcome.status == FAILED:
                return {"how": f"{law.id} on {case.name}: {_describe(outcome)}"}
            if outcome.status == DECLINED and law.id not in declined:
                return {"how": f"{law.id} on {case.name} is declined: {_shorten(outcome.message)}"}
    return {"how": ""}


def _find_refusal(backends: Backends) -> str | None:
    try:
        return explain_refusal(backends.subject)
    except Exception as error:
        return f"the canary itself failed: {_shorten(error)}"


def _describe(outcome: Outcome) -> str:
    if outcome.worst is None:
        return _shorten(outcome.message)
    worst = outcome.worst
    return f"{worst.where}: {worst.error:.1e}, bound {worst.bound.limit:.0e}"


def _shorten(value: object) -> str:
    return " ".join(str(value).split())[:160]
