"""`hermes conformance`: prove that a backend computes the same numbers."""

import json
import os
import sys
import time
from pathlib import Path

import click

from hermes.errors import HermesError, explain_os_error
from hermes.formatting import format_count
from hermes.stages import report_stage
from hermes.storage.durable import write_atomically
from hermes_cli.commands.random_mutants import show_random_mutants
from hermes_cli.display.help_sections import SectionedGroup
from hermes_cli.options.declarations import declare_command


@click.group(cls=SectionedGroup, no_args_is_help=True)
def conformance() -> None:
    """Prove that a backend computes the same numbers.

    Compares a backend with a reference backend law by law, and says how far apart they are.
    """
    # Read by MLX when it is first loaded: float32 means float32 on every device.
    os.environ["MLX_ENABLE_TF32"] = "0"


def _show_progress(text: str) -> None:
    """Show a line on standard error, if it is a terminal; the next call overwrites it."""
    if sys.stderr.isatty():
        # color=True keeps the escape code, which erases the line.
        click.echo(f"\r\x1b[K{text}", err=True, nl=False, color=True)


def _require_writable(*files: Path | None) -> None:
    """Refuse files that cannot be written before the suite runs for them. Raises HermesError."""
    found = [file for file in files if file is not None]
    if len({os.path.realpath(file) for file in found}) < len(found):
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
            raise HermesError(f"{file} cannot be written: {explain_os_error(error)}") from None
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
    from hermes_conformance.certificate import storage
    from hermes_conformance.certificate.html import make_page
    from hermes_conformance.certificate.issue import issue_certificate
    from hermes_conformance.suite.precision import require_float32
    from hermes_conformance.suite.report import (
        count_outcomes,
        format_failure,
        format_law,
        group_by_law,
        make_run_command,
    )
    from hermes_conformance.suite.runner import FAILED, judge_level
    from hermes_conformance.suite.selection import (
        explain_empty_run,
        load_backends,
        make_selection,
    )
    from hermes_conformance.suite.xfail import excuse, find_unmatched, read_expected_failures

    selection = make_selection(levels, laws, cases, dtypes, long)
    if dtypes == ("tf32",):
        os.environ["MLX_ENABLE_TF32"] = "1"  # MLX computes in float32 or in tf32, not in both
    kept_with = locate(checkpoint)[0] if checkpoint else None
    _require_writable(json_file, html_file, kept_with.path / storage.NAME if kept_with else None)
    expected_failures = read_expected_failures(xfail) if xfail else ()
    backends = load_backends(backend, against, device)
    require_float32(backends, dtypes)
    if kept_with is not None:
        storage.require_writer(backends.subject.backend, kept_with)
    began, judged = time.perf_counter(), []
    for level in selection.list_levels():
        level_outcomes = []
        stage = f"judging {level.name}"
        report_stage(stage)
        for outcome in judge_level(level, backends, selection):
            level_outcomes.append(outcome)
            checks = format_count(len(level_outcomes), "checks")
            report_stage(stage, 0, 0, f"{checks}, the last of {outcome.law.name}")
        report_stage("")
        judged += level_outcomes
        if level_outcomes:
            click.echo(f"{level.name}  {level.title}")
        for report in group_by_law(excuse(level_outcomes, expected_failures)[0]):
            click.echo(format_law(report))
    outcomes, complaints = excuse(judged, expected_failures)
    complaints += find_unmatched(expected_failures, selection)
    if not outcomes:
        raise HermesError(explain_empty_run(selection, backends))
    rerun = make_run_command((backend, against, device), dtypes, long)
    for outcome in outcomes:
        if outcome.status == FAILED:
            click.echo("\n" + "\n".join(format_failure(outcome, rerun)))
    for complaint in complaints:
        click.echo(f"\nFAILED {complaint}")
    certificate = issue_certificate(backends, selection, outcomes, complaints)
    if kept_with is not None:
        certificate = storage.keep_certificate(certificate, kept_with)
    if json_file:
        storage.write_certificate(certificate, json_file)
    if html_file:
        write_atomically(html_file, make_page(certificate).encode("utf-8"))
    counts = count_outcomes(outcomes)
    expected = f"{counts['expected']:,} failed as expected, " if counts["expected"] else ""
    click.echo(
        f"\n{backend} against {against}: {counts['passed']:,} passed, {counts['failed']:,} failed, "
        f"{expected}{counts['declined']:,} declined, in {time.perf_counter() - began:.0f} s"
    )
    for entry in certificate["levels"]:
        if not entry["passed"] and not any(law["failed"] for law in entry["laws"]):
            click.echo(f"{entry['level']} is declined whole, so it has not passed")
    if not certificate["passed"] and not counts["failed"] and not complaints:
        click.echo(
            f"no law that needs the backend passed on {certificate['device']}, so nothing is "
            "certified"
        )
    if not certificate["passed"]:
        raise click.exceptions.Exit(1)


@declare_command("conformance list", conformance)
def list_laws(levels: tuple[str, ...], names: bool, long: bool) -> None:
    """List the laws: what each says, its bound, the reason for it, and what was measured."""
    from hermes_conformance.suite.report import format_number
    from hermes_conformance.suite.selection import make_selection

    for level in make_selection(levels, long=long).list_levels():
        cases = level.make_cases(long)
        click.echo(f"{level.name}  {level.title}")
        for law in level.laws:
            count = sum(law.applies_to(case) for case in cases)
            bound = law.bound
            click.echo(
                f"  {law.name}: {law.statement} "
                f"({format_count(count, 'cases')}, {law.precision or 'any type'})"
            )
            click.echo(
                f"      within {format_number(bound.limit)} {bound.unit}; measured {bound.measured}"
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
    random: int | None,
    seed: int,
    json_file: Path | None,
) -> None:
    """Plant every known fault in a backend and in the suite; each must be caught.

    With --random, change single tokens of the backend's source instead, in memory and at random.
    Exits with 1 if a fault or a change goes unnoticed.
    """
    from dataclasses import asdict

    from hermes_conformance.faults.self_test import EQUIVALENTS, run_self_test, select_faults
    from hermes_conformance.suite.precision import require_float32
    from hermes_conformance.suite.selection import load_backends

    _require_writable(json_file)
    if random is not None:
        if faults:
            raise HermesError("--fault chooses planted faults and --random plants none; give one")
        names = backend, against, device
        show_random_mutants(random, seed, names, json_file, _show_progress)
        return
    if seed:
        raise HermesError("--seed draws random changes; give --random N with it")
    selection = select_faults(faults)
    backends = load_backends(backend, against, device)
    require_float32(backends)
    began, results = time.perf_counter(), []
    report_stage("planting faults")
    for result in run_self_test(backends, selection):
        results.append(result)
        report_stage("")
        mark = "caught" if result.caught else "MISSED"
        click.echo(f"{mark}  {result.part:<12} {result.fault}")
        click.echo(f"        {result.law} {result.case}  {result.how}".rstrip())
        report_stage("planting faults", len(results))
    report_stage("")
    if not results:
        raise HermesError(f"no such fault can be planted in {backend} against {against}")
    if not faults:
        click.echo("\nNot planted, since nothing could tell them apart:")
        for what, why in EQUIVALENTS.items():
            click.echo(f"  {what}: {why}")
    missed = sum(not result.caught for result in results)
    click.echo(
        f"\n{len(results) - missed} of {len(results)} caught in {time.perf_counter() - began:.0f} s"
    )
    if json_file:
        text = json.dumps([asdict(result) for result in results], indent=1) + "\n"
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
    from hermes_conformance.certificate import storage
    from hermes_conformance.certificate.issue import describe_passes, describe_scope
    from hermes_conformance.certificate.verify import check_certificate, read_installed_versions

    certificate = storage.read_certificate(file)
    wrong = check_certificate(certificate, read_installed_versions(certificate))
    if file.is_dir() and not wrong:
        wrong = storage.find_mismatches(certificate, locate(file)[0])
    if wrong:
        raise HermesError(f"{file}: {'; '.join(wrong)}")
    click.echo(
        f"{certificate['backend']} against {certificate['against']} "
        f"{describe_passes(certificate)} ({certificate['conditions']['date']})"
    )
    click.echo(describe_scope(certificate))
    click.echo(f"judged in {', '.join(certificate['precisions']) or 'no precision'}")
    for known in certificate["expected"]:
        click.echo(f"expected to fail: {known['law']} on {known['case']}: {known['reason']}")


@declare_command("conformance bisect", conformance)
def bisect(backend: str, against: str, name: str, dtype: str, device: str | None) -> None:
    """Find the first tensor in which two backends differ.

    Compares, in this order, the forward pass, dropout, the KV cache and the gradients of one case.
    """
    from hermes_conformance.bisect import first_difference
    from hermes_conformance.measure import tolerance
    from hermes_conformance.suite.precision import require_float32
    from hermes_conformance.suite.selection import load_backends, make_selection

    selection = make_selection(("L1",), dtypes=(dtype,))
    cases = [case for level in selection.list_levels() for case in level.make_cases(True)]
    case = next((case for case in cases if case.name == name), None)
    if case is None:
        raise HermesError(f"no case {name!r} in L1; see hermes conformance list --level L1 --cases")
    backends = load_backends(backend, against, device)
    require_float32(backends)
    bounds, difference = first_difference.describe_bounds(backends, case, dtype), None
    for computation in first_difference.list_computations(backends, case):
        difference = first_difference.compare_forward(
            backends, case, tolerance.BISECT_BOUNDS[dtype], dtype, computation
        )
        if difference is not None:
            break
        click.echo(f"{computation.name}: every intermediate tensor agrees")
    if difference is None and not first_difference.explain_no_backward(backends, case, dtype):
        difference = first_difference.compare_backward(backends, case, dtype)
    if difference is None:
        click.echo(f"{backend} and {against} agree on {name} to the last tensor, {bounds}")
        return
    click.echo(str(difference))
    many, one = "tensors before it agree", "tensor before it agrees"
    agree = format_count(difference.compared - 1, many, one)
    click.echo(f"{agree}, of {difference.total:,}", err=True)
    raise click.exceptions.Exit(1)
