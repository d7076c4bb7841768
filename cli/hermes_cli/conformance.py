"""`hermes conformance`: does this backend compute what hermes says?"""

import os
import time

import click

from hermes.errors import HermesError
from hermes.seam import find_backend

LEVEL_NAMES = ("L0", "L1", "L2", "L3", "L4", "L5")


@click.group()
def conformance() -> None:
    """Prove that a backend computes the same numbers, and say how far apart two are."""
    # Read by MLX when it is first loaded: float32 means float32 on every device.
    os.environ["MLX_ENABLE_TF32"] = "0"


def chosen_levels(given: tuple[str, ...]) -> tuple[str, ...]:
    """`L1` and `L0-L2` as level names, in order. Raises HermesError for another word."""
    chosen = set()
    for word in given:
        ends = word.upper().split("-")
        if len(ends) > 2 or any(end not in LEVEL_NAMES for end in ends):
            raise HermesError(
                f"--level {word!r} is no level; write one of {', '.join(LEVEL_NAMES)} or a range "
                "such as L0-L2"
            )
        first, last = LEVEL_NAMES.index(ends[0]), LEVEL_NAMES.index(ends[-1])
        chosen.update(LEVEL_NAMES[first : last + 1])
    return tuple(name for name in LEVEL_NAMES if name in chosen)


@conformance.command()
@click.option("--backend", default="torch", help="Who is judged.")
@click.option("--against", default="numpy", help="The reference; numpy is the oracle.")
@click.option("--level", "levels", multiple=True, help="L0 .. L5 or L0-L2; repeatable.")
@click.option("--law", "laws", multiple=True, metavar="GLOB", help="Laws such as 'L1/log*'.")
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="Cases such as '*rope*'.")
@click.option("--device", help="Of the backend under judgement; its own choice if left out.")
@click.option("--dtype", "dtypes", multiple=True, help="Only laws that compute in it; repeatable.")
@click.option("--long", is_flag=True, help="Also the bigger models and the slower variants.")
def run(backend, against, levels, laws, cases, device, dtypes, long) -> None:
    """Run the levels and print one line per law."""
    from hermes_conformance.law import Sides
    from hermes_conformance.report import by_law, failure_lines, law_line, verdict
    from hermes_conformance.runner import FAILED, Selection, judge
    from hermes_conformance.side import Side

    selection = Selection(chosen_levels(levels), laws, cases, dtypes, long)
    subject = Side(find_backend(backend), device)
    reference = Side(find_backend(against))
    oracle = reference if against == "numpy" else Side(find_backend("numpy"))
    sides = Sides(subject, reference, oracle)
    began, outcomes = time.perf_counter(), []
    for level in selection.of_levels():
        alone = Selection((level.name,), laws, cases, dtypes, long)
        found = list(judge(sides, alone))
        outcomes += found
        if found:
            click.echo(f"{level.name}  {level.title}")
        for report in by_law(found):
            click.echo(law_line(report))
    if not outcomes:
        raise HermesError("no law and case of that name; see hermes conformance list")
    rerun = ["hermes", "conformance", "run", "--backend", backend, "--against", against]
    rerun += ["--device", device] if device else []
    for outcome in outcomes:
        if outcome.status == FAILED:
            click.echo()
            for line in failure_lines(outcome, rerun):
                click.echo(line)
    counts = verdict(outcomes)
    seconds = time.perf_counter() - began
    click.echo()
    click.echo(
        f"{backend} against {against}: {counts['passed']:,} passed, {counts['failed']:,} failed, "
        f"{counts['declined']:,} declined, in {seconds:.0f} s"
    )
    if counts["failed"]:
        raise click.exceptions.Exit(1)
