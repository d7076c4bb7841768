"""`hermes conformance`: does this backend compute what hermes says?"""

import json
import os
import sys
import time
from pathlib import Path

import click

from hermes.errors import HermesError
from hermes.storage.durable import write_atomically
from hermes_cli.display.help_sections import SectionedGroup
from hermes_cli.options.declarations import declare_command


@click.group(cls=SectionedGroup, no_args_is_help=True)
def conformance() -> None:
    """Prove that a backend computes the same numbers.

    Compares a backend with a reference backend law by law, and says how far apart they are.
    """
    # Read by MLX when it is first loaded: float32 means float32 on every device.
    os.environ["MLX_ENABLE_TF32"] = "0"


def _progress(text: str) -> None:
    """One line on a terminal's stderr, which the next one overwrites."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False, color=True)  # it is no colour


def _require_writable(*files: Path | None) -> None:
    """Refuse, before anything is judged, what could not be written after it. Raises HermesError."""
    found = [file for file in files if file is not None]
    if len({file.resolve() for file in found}) < len(found):
        raise HermesError(f"{found[-1]} would be written twice; name another file for one of both")
    for file in found:
        if file.is_dir():
            raise HermesError(f"{file} cannot be written: it is a folder; name a file in it")
        if not file.parent.is_dir():
            raise HermesError(f"{file} cannot be written: {file.parent} is no folder")
        existed = file.exists()
        try:
            file.open("a").close()
        except OSError as error:
            raise HermesError(f"{file} cannot be written: {error.strerror}") from None
        if not existed:
            file.unlink()


@declare_command("conformance run", conformance)
def run(
    backend: str,
    against: str,
    levels: tuple[str, ...],
    laws: tuple[str, ...],
    cases: tuple[str, ...],
    device: str | None,
    dtypes: tuple[str, ...],
    json_file: Path | None,
    html_file: Path | None,
    checkpoint: Path | None,
    xfail: Path | None,
    long: bool,
) -> None:
    """Run the suite and print one line per law.

    Exits with 1 if a law fails.
    """
    from hermes.checkpoint import locate
    from hermes_conformance.certificate import stored
    from hermes_conformance.certificate.html import page
    from hermes_conformance.certificate.issue import certificate, require_float32
    from hermes_conformance.suite.report import by_law, failure_lines, law_line, verdict
    from hermes_conformance.suite.runner import FAILED, judge_level
    from hermes_conformance.suite.selection import (
        chosen,
        excused_today,
        nothing_to_judge,
        sides_of,
        started_with,
    )
    from hermes_conformance.suite.xfail import read_waivers, strays

    selection = chosen(levels, laws, cases, dtypes, long)
    if dtypes == ("tf32",):
        os.environ["MLX_ENABLE_TF32"] = "1"  # MLX computes in float32 or in tf32, not in both
    kept_with = locate(checkpoint)[0] if checkpoint else None
    _require_writable(json_file, html_file, kept_with.path / stored.NAME if kept_with else None)
    waivers = read_waivers(xfail) if xfail else ()
    sides = sides_of(backend, against, device)
    require_float32(sides, dtypes)
    if kept_with is not None:
        stored.require_writer(sides.subject.backend, kept_with)
    began, judged = time.perf_counter(), []
    for level in selection.of_levels():
        found = []
        for outcome in judge_level(level, sides, selection):
            found.append(outcome)
            _progress(f"{level.name} {len(found)} checks, now {outcome.law.name}")
        _progress("")
        judged += found
        if found:
            click.echo(f"{level.name}  {level.title}")
        for report in by_law(excused_today(found, waivers)[0]):
            click.echo(law_line(report))
    outcomes, complaints = excused_today(judged, waivers)
    complaints += strays(waivers, selection)
    if not outcomes:
        raise HermesError(nothing_to_judge(selection, sides))
    rerun = started_with((backend, against, device), dtypes, long)
    for outcome in outcomes:
        if outcome.status == FAILED:
            click.echo("\n" + "\n".join(failure_lines(outcome, rerun)))
    for complaint in complaints:
        click.echo(f"\nFAILED {complaint}")
    made = certificate(sides, selection, outcomes, complaints)
    if kept_with is not None:
        made = stored.keep(made, kept_with)
    if json_file:
        stored.write(made, json_file)
    if html_file:
        write_atomically(html_file, page(made).encode("utf-8"))
    counts = verdict(outcomes)
    expected = f"{counts['expected']:,} failed as expected, " if counts["expected"] else ""
    click.echo(
        f"\n{backend} against {against}: {counts['passed']:,} passed, {counts['failed']:,} failed, "
        f"{expected}{counts['declined']:,} declined, in {time.perf_counter() - began:.0f} s"
    )
    if not made["passed"] and not counts["failed"] and not complaints:
        click.echo("nothing that asks the backend passed, so nothing is certified")
    if not made["passed"]:
        raise click.exceptions.Exit(1)


@declare_command("conformance list", conformance)
def list_laws(levels: tuple[str, ...], names: bool, long: bool) -> None:
    """List the laws: what each says, its bound, the reason for it, and what was measured."""
    from hermes_conformance.suite.report import number
    from hermes_conformance.suite.selection import chosen

    for level in chosen(levels, long=long).of_levels():
        cases = level.cases(long)
        click.echo(f"{level.name}  {level.title}")
        for law in level.laws:
            count = sum(law.applies(case) for case in cases)
            bound = law.bound
            click.echo(f"  {law.name}: {law.says} ({count} cases, {law.precision or 'any type'})")
            click.echo(
                f"      within {number(bound.limit)} {bound.unit}; measured {bound.measured}"
            )
            click.echo(f"      {bound.why}")
        if names:
            for case in cases:
                click.echo(f"    {case.name}")


@declare_command("conformance self-test", conformance)
def self_test(
    backend: str,
    against: str,
    device: str | None,
    faults: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Plant every known fault in a backend and in the suite; each must be caught.

    Exits with 1 if a fault goes unnoticed.
    """
    from dataclasses import asdict

    from hermes_conformance.certificate.issue import require_float32
    from hermes_conformance.faults.self_test import EQUIVALENTS, planned
    from hermes_conformance.faults.self_test import self_test as plant
    from hermes_conformance.suite.selection import sides_of

    _require_writable(json_file)
    plan = planned(faults)
    sides = sides_of(backend, against, device)
    require_float32(sides)
    began, rows = time.perf_counter(), []
    for row in plant(sides, plan):
        rows.append(row)
        _progress("")
        mark = "caught" if row.caught else "MISSED"
        click.echo(f"{mark}  {row.part:<12} {row.fault}")
        click.echo(f"        {row.law} {row.case}  {row.how}".rstrip())
    if not rows:
        raise HermesError(f"no such fault can be planted in {backend} against {against}")
    if not faults:
        click.echo("\nNot planted, since nothing could tell them apart:")
        for what, why in EQUIVALENTS.items():
            click.echo(f"  {what}: {why}")
    missed = sum(not row.caught for row in rows)
    click.echo(
        f"\n{len(rows) - missed} of {len(rows)} caught in {time.perf_counter() - began:.0f} s"
    )
    if json_file:
        text = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
        write_atomically(json_file, text.encode("utf-8"))
    if missed:
        raise click.exceptions.Exit(1)


@declare_command("conformance verify", conformance)
def verify(file: Path) -> None:
    """Verify a certificate.

    It must be unaltered, have passed, and have been made with the versions that are installed here.
    The certificate of a checkpoint must also be about exactly these bytes and the backend that
    wrote them.
    """
    from hermes.checkpoint import locate
    from hermes_conformance.certificate import stored
    from hermes_conformance.certificate.issue import scope
    from hermes_conformance.certificate.verify import check, versions_here

    made = stored.read(file)
    wrong = check(made, versions_here(made))
    if file.is_dir() and not wrong:
        wrong = stored.strangers(made, locate(file)[0])
    if wrong:
        raise HermesError(f"{file}: {'; '.join(wrong)}")
    levels = ", ".join(level["level"] for level in made["levels"])
    click.echo(
        f"{made['backend']} against {made['against']} on {made['device']} passed {levels} "
        f"({made['conditions']['date']})"
    )
    click.echo(scope(made))
    click.echo(f"judged in {', '.join(made['precisions']) or 'no precision'}")
    for known in made["expected"]:
        click.echo(f"expected to fail: {known['law']} on {known['case']}: {known['reason']}")


@declare_command("conformance bisect", conformance)
def bisect(backend: str, against: str, name: str, dtype: str, device: str | None) -> None:
    """Find the first tensor in which two backends differ.

    Compares, in this order, the forward pass, dropout, the KV cache and the gradients of one case.
    """
    from hermes_conformance.bisect import first_difference
    from hermes_conformance.certificate.issue import require_float32
    from hermes_conformance.measure import tolerance
    from hermes_conformance.suite.selection import chosen, sides_of

    selection = chosen(("L1",), dtypes=(dtype,))
    sides = sides_of(backend, against, device)
    require_float32(sides)
    found = [case for level in selection.of_levels() for case in level.cases(True)]
    case = next((case for case in found if case.name == name), None)
    if case is None:
        raise HermesError(f"no case {name!r} in L1; see hermes conformance list --level L1 --cases")
    bounds, parting = first_difference.within(sides, case, dtype), None
    for way in first_difference.ways(sides, case):
        parting = first_difference.forward(sides, case, tolerance.PARTS[dtype], dtype, way)
        if parting is not None:
            break
        click.echo(f"{way.name}: every intermediate tensor agrees")
    if parting is None and not first_difference.withheld(sides, case, dtype):
        parting = first_difference.backward(sides, case, dtype)
    if parting is None:
        click.echo(f"{backend} and {against} agree on {name} to the last tensor, {bounds}")
        return
    click.echo(str(parting))
    click.echo(f"the {parting.compared - 1} of {parting.of} tensors before it agree", err=True)
    raise click.exceptions.Exit(1)
