"""`hermes convert`: a model from one form into another, with a proof."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hermes.interop.convert import Converted


QUIET_SECONDS = 30.0


@click.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["hermes", "hf"]),
    help="hermes: a checkpoint. hf: a folder under Hugging Face's own names.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the weights.  [default: as they are stored]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The architecture of a file that does not carry it: config.json, .mal or litgpt's .yaml.",
)
@click.option(
    "--backend",
    default="auto",
    metavar="auto|torch|mlx|numpy",
    help="What computes the proof; auto: one that is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def convert(
    src: Path,
    dst: Path,
    to: str,
    dtype: str | None,
    config: Path | None,
    backend: str,
    as_json: bool,
) -> None:
    """Write the model at SRC as the new folder DST.

    SRC is a checkpoint or run of hermes, a Hugging Face or litgpt folder, a .safetensors with its
    config, or a .pt that nanoGPT trained. At the end every tensor and the logits of source and
    result are compared.
    """
    from hermes.interop.convert import convert as make

    with watching() as watch:
        done = make(
            src,
            dst,
            to=to,
            dtype=dtype,
            config=config,
            backend=None if backend == "auto" else backend,
            watch=watch,
        )
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(_facts(done), indent=2))
        return
    for line in lines_of(done):
        click.echo(line)


@contextmanager
def watching() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, that leaves nothing behind; elsewhere a line each half minute."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def say(stage: str, share: float) -> None:
            nonlocal last
            if time.monotonic() - last > QUIET_SECONDS:
                last = time.monotonic()
                click.echo(f"{stage} {share:.0%}", err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {stage: bar.add_task(stage, total=1.0) for stage in ("writing", "comparing")}
        yield lambda stage, share: bar.update(tasks[stage], completed=share)


def _facts(done: "Converted") -> dict[str, object]:
    from hermes.interop.readers import verdicts
    from hermes.params import tensor_count

    return {
        "source": str(done.source.path),
        "kind": done.source.kind,
        "target": str(done.target),
        "architecture": done.architecture,
        "parameters": tensor_count(done.source.spec),
        "dtype": done.dtype,
        "tokenizer": sorted(done.source.files),
        "bytes": done.size,
        "difference": done.proof.difference,
        "backend": done.proof.backend,
        "readers": verdicts(done.source.spec, converted=done.to == "hf"),
    }


def _has_a_class(done: "Converted") -> bool:
    from hermes.interop.families import family_of

    return family_of(done.source.spec, renamed=True) != "hermes"


def lines_of(done: "Converted") -> list[str]:
    """What was read and written, the proof, and each reader's verdict."""
    facts = _facts(done)
    one_by_one = f", layer by layer ({done.proof.passes})" if done.proof.passes > 1 else ""
    files = ", ".join(sorted(done.source.files)) or "none beside it"
    lines = [
        f"read       {done.source.path}: {done.source.kind}, {facts['parameters']:,} parameters",
        f"written    {done.target}: {done.architecture}, {done.dtype}, {done.size:,} bytes",
        f"tokenizer  {files}",
        f"proof      logits differ by {done.proof.difference:.2g} of their root mean square "
        f"({done.proof.backend}{one_by_one})",
    ]
    found = facts["readers"]
    assert isinstance(found, dict)
    lines += [f"{reader:<18} {verdict}" for reader, verdict in found.items()]
    if done.architecture == "HermesForCausalLM" and _has_a_class(done):
        lines.append("note       --to hf makes it a model that those tools know")
    return lines
