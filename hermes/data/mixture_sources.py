"""How a mixture is written: its sources, their weights, and at which steps the weights change.

On the command line and in run.yaml a source is `[NAME=]FILES:WEIGHT[,WEIGHT@STEP...]`, as in
`code=src/*.py:0.3,0.8@10000`: a weight of 0.3, and from step 10,000 on, counted from 0, of 0.8. In
a file of options, and in Python, a mixture may be a mapping instead:

    data:
      web:  {files: crawl, weight: 0.7}
      code: {files: [src, more/*.py], weight: 0.3}
      schedule:
        10000: {web: 0.2, code: 0.8}
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.data.file_names import find_matches
from hermes.data.remote import locate_source
from hermes.errors import DataError, suggest_nearest
from hermes.formatting import name_type
from hermes.storage.addresses import expand_home

__all__ = [
    "WeightedSource",
    "list_changes",
    "locate_data",
    "locate_mixture_source",
    "parse_mixture",
    "spell_mixture",
    "strip_weights",
]

MOST = 1_000_000_000  # of a weight, so that the sum of all is a number, too
LEAST = 0.001  # share of a source, of which a block of samples then has some
NUMBER = r"(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?"
WEIGHTED = re.compile(rf"(?P<files>.+):(?P<weights>{NUMBER}(,{NUMBER}@\d+)*)")
# What was meant as weights and is none: -1, 0,7 for 0.7, nan.
MEANT = re.compile(r".+:(?P<weights>\s*([-+\d.,@eE\s]*\d[-+\d.,@eE\s]*|[-+]?(nan|inf))\s*)")
NAMED = re.compile(r"(?P<name>[A-Za-z_][\w.-]*)=(?P<files>.+)")
SCHEDULE, FILES, WEIGHT = "schedule", "files", "weight"


@dataclass(frozen=True)
class WeightedSource:
    """A source and its share of the samples; the shares of all add up to 1.

    name: as it is given, or the path. share: at the run's start. files: what it is read from; ()
    for `name`. later: its share from a step on, counted from 0, for each step at which any
    source's weight changes.
    """

    name: str
    share: float
    files: tuple[str, ...] = ()
    later: tuple[tuple[int, float], ...] = ()

    @property
    def data(self) -> tuple[str, ...]:
        """The names of its files, folders or patterns."""
        return self.files or (self.name,)


@dataclass(frozen=True)
class _Item:
    """One `--data` with weights: the name, the files, and the weight from each step on."""

    name: str
    files: str
    weights: Mapping[int, float]
    is_named: bool


def parse_mixture(names: Sequence[str]) -> tuple[WeightedSource, ...]:
    """Parse 'web:0.7', 'code=src:0.3,0.8@1000' as sources with shares; () where none has a weight.

    A file that has such a name is a file. Items of one name are one source of several files. Raises
    DataError where only some have weights, and for weights that are no mixture.
    """
    found = [_parse_item(name) for name in names]
    if not any(found):
        return ()
    for name, item in zip(names, found, strict=True):
        if item is None:
            raise DataError(
                f"--data {name} has no weight and others have; give each one, as in {name}:0.5"
            )
    sources: dict[str, list[_Item]] = {}
    for number, item in enumerate(filter(None, found)):
        own = sources.setdefault(item.name if item.is_named else f"{number}:{item.name}", [])
        if own and own[0].weights != item.weights:
            raise DataError(f"--data {item.name}= is given with several weights; give it one")
        own.append(item)
    steps = sorted({step for own in sources.values() for step in own[0].weights})
    shares = [_find_shares([own[0] for own in sources.values()], step) for step in steps]
    return tuple(
        WeightedSource(
            own[0].name,
            shares[0][number],
            tuple(item.files for item in own) if own[0].is_named else (),
            tuple((step, later[number]) for step, later in zip(steps[1:], shares[1:], strict=True)),
        )
        for number, own in enumerate(sources.values())
    )


def _parse_item(text: str) -> _Item | None:
    """What a name says; None where it has no weight."""
    if os.path.lexists(text):
        return None
    match = WEIGHTED.fullmatch(text)
    if match is None:
        if meant := MEANT.fullmatch(text):
            raise DataError(_describe_no_weight(text, meant["weights"]))
        return None
    files, weights = match["files"], {}
    for part in match["weights"].split(","):
        weight, _, step = part.partition("@")
        if int(step or 0) in weights:
            raise DataError(f"--data {text}: more than one weight from step {int(step or 0):,} on")
        weights[int(step or 0)] = number = float(weight)
        if number > MOST:
            raise DataError(_describe_no_weight(text, weight))
    named = _split_name(files)
    if named is None:
        files = expand_home(files)
        return _Item(files, files, weights, False)
    return _Item(*named, weights, True)


def _describe_no_weight(text: str, weight: str) -> str:
    return (
        f"--data {text}: {weight!r} is no weight; expected a number from 0 to {MOST:,}, such as "
        "0.7, and where it changes at a step 0.7,0.3@1000"
    )


def _split_name(text: str) -> tuple[str, str] | None:
    """The name and the files of 'code=src'; None for files alone, such as 'year=2024/*.jsonl'."""
    named = NAMED.fullmatch(text)
    if named is None or os.path.lexists(text) or find_matches(text):
        return None
    return named["name"], expand_home(named["files"])


def _find_shares(items: Sequence[_Item], step: int) -> list[float]:
    """The share of each source from a step on. Raises DataError for one that is too small."""
    weights = [item.weights[max(s for s in item.weights if s <= step)] for item in items]
    total = math.fsum(weights)
    when = f" from step {step:,} on" if step else ""
    shares = [weight / total if total else 0.0 for weight in weights]
    for item, share in zip(items, shares, strict=True):
        may_pause = share == 0 and total and any(item.weights.values())
        if share < LEAST and not may_pause:
            advice = "or leave it out" if not when else "or 0 to leave it out"
            raise DataError(
                f"--data {item.name} has {share:.2g} of all weights{when}; give it at least "
                f"{LEAST}, {advice}"
            )
    return shares


def strip_weights(names: Sequence[str]) -> tuple[str, ...]:
    """The names of files without names of sources and weights. Raises DataError."""
    mixture = parse_mixture(names)
    return tuple(file for source in mixture for file in source.data) or tuple(names)


def list_changes(mixture: Sequence[WeightedSource]) -> list[tuple[int, tuple[float, ...]]]:
    """List the steps from which on shares hold, and those of all sources, from step 0 on."""
    first = [(0, tuple(source.share for source in mixture))]
    steps = [step for step, _ in mixture[0].later]
    later = [tuple(source.later[n][1] for source in mixture) for n in range(len(steps))]
    return [*first, *zip(steps, later, strict=True)]


def locate_mixture_source(text: str) -> tuple[str, str, str]:
    """What stands before a source's files, the files, and what stands behind them.

    'code=src:0.3' is ('code=', 'src', ':0.3'), and a name without a weight itself alone.
    """
    match = None if os.path.lexists(text) else WEIGHTED.fullmatch(text)
    if match is None:
        return "", text, ""
    named = _split_name(match["files"])
    name, files = named or ("", match["files"])
    return (f"{name}=" if named else ""), files, f":{match['weights']}"


def locate_data(text: str) -> str:
    """A source with its name and weights as run.yaml has it: files by their absolute paths."""
    before, files, behind = locate_mixture_source(text)
    return before + locate_source(files) + behind


def spell_mixture(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Spell a mapping of sources as `parse_mixture` reads them. Raises DataError."""
    sources = {str(name): value for name, value in given.items() if name != SCHEDULE}
    if not sources:
        raise DataError("data has no source; give each a name, files and a weight")
    weights = {name: {0: _read_weight(name, own)} for name, own in sources.items()}
    for key, changed in _read_schedule(given.get(SCHEDULE)).items():
        step = _read_step(key)
        if not isinstance(changed, Mapping):
            raise DataError(f"data.schedule: step {step:,} has no weights by name of source")
        for name, weight in changed.items():
            if name not in weights:
                raise DataError(
                    f"data.schedule: step {step:,} names {name!r}, which is no source"
                    f"{suggest_nearest(str(name), weights)}"
                )
            weights[name][step] = _read_number(f"data.schedule: {name} at step {step:,}", weight)
    found = []
    for name, own in sources.items():
        spelled = ",".join(
            format(weight, "f").rstrip("0").rstrip(".") + (f"@{step}" if step else "")
            for step, weight in sorted(weights[name].items())
        )
        found += [f"{name}={file}:{spelled}" for file in _read_files(name, own)]
    return tuple(found)


def _read_weight(name: str, source: Any) -> float:
    if NAMED.fullmatch(f"{name}=x") is None:
        raise DataError(f"data: {name!r} is no name of a source; use letters, digits, _ - and .")
    if not isinstance(source, Mapping):
        raise DataError(
            f"data.{name} is {name_type(source)}; give it as {{files: PATH, weight: NUMBER}}"
        )
    if unknown := [key for key in source if key not in (FILES, WEIGHT)]:
        hint = suggest_nearest(str(unknown[0]), (FILES, WEIGHT))
        raise DataError(f"data.{name}: unknown key {unknown[0]!r}{hint}")
    if WEIGHT not in source:
        raise DataError(f"data.{name} has no weight; give it one, such as weight: 0.5")
    return _read_number(f"data.{name}.weight", source[WEIGHT])


def _read_files(name: str, source: Mapping[str, Any]) -> list[str]:
    files = source.get(FILES)
    found = [files] if isinstance(files, str | Path) else files
    if not found or not isinstance(found, list | tuple):
        raise DataError(f"data.{name} has no files; give a path, a pattern or a list of them")
    return [str(file) for file in found]


def _read_schedule(schedule: Any) -> Mapping[Any, Any]:
    if schedule is None:
        return {}
    if not isinstance(schedule, Mapping):
        raise DataError(
            f"data.schedule is {name_type(schedule)}; give weights by step, as in "
            "{1000: {web: 0.5}}"
        )
    return schedule


def _read_step(key: Any) -> int:
    text = str(key)
    if isinstance(key, bool) or not text.isdecimal() or int(text) == 0:
        raise DataError(f"data.schedule: {key!r} is no step; expected a whole number above 0")
    return int(text)


def _read_number(what: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= MOST:
        raise DataError(f"{what} is {value!r}; expected a number from 0 to {MOST:,}")
    return number
