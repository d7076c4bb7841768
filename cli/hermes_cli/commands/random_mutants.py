"""`hermes conformance self-test --random`: what the suite finds of random one-token changes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import HermesError

if TYPE_CHECKING:
    from hermes_conformance.mutants.random_mutants import MutantResult

Show = Callable[[str], None]


def show_random_mutants(
    number: int,
    seed: int,
    names: tuple[str, str, str | None],
    json_file: Path | None,
    show_progress: Show,
) -> None:
    """Judge `number` random mutants and print each result as it comes.

    names: of the backend, the reference and the device. json_file: written after each result, and
    read first, so that a run that was stopped goes on. Exits with 1 if one survives.
    """
    from hermes_conformance.mutants.random_mutants import run_random_mutants
    from hermes_conformance.mutants.results import (
        count_results,
        make_header,
        read_results,
        write_results,
    )

    backend, against, device = names
    if number < 1:
        raise HermesError(f"--random {number} draws nothing; give a number from 1")
    header = make_header(backend, against, device, seed)
    done = read_results(json_file, header) if json_file else ()
    began = time.perf_counter()
    results: list[MutantResult] = []
    for result in run_random_mutants(
        backend, number, seed, against, device, done=done, report=show_progress
    ):
        results.append(result)
        show_progress("")
        click.echo("\n".join(describe_result(result)))
        if json_file:
            write_results(json_file, header, results)
    counts = count_results(results)
    if survivors := [result for result in results if result.survived]:
        click.echo("\nSurvived:")
    for result in survivors:
        click.echo("\n".join(describe_result(result)))
    judged = counts["drawn"] - counts["equivalent"]
    click.echo(
        f"\n{counts['caught']} of {judged} caught, {counts['equivalent']} change nothing, "
        f"in {time.perf_counter() - began:.0f} s (seed {seed})"
    )
    if survivors:
        raise click.exceptions.Exit(1)


def describe_result(result: "MutantResult") -> list[str]:
    """The lines about a result: where it is, both texts, and what became of it."""
    mark = "caught" if result.caught else "equal " if result.equivalent else "MISSED"
    return [
        f"{mark}  {result.file}:{result.line}  {result.function}",
        f"        - {result.before}",
        f"        + {result.after}",
        f"        {result.equivalent or result.how}",
    ]
