"""`hermes info` and `hermes mal`: what an architecture is, what it costs, how two differ."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from hermes import mal as language
from hermes.errors import HermesError, StorageError
from hermes.spec import ModelSpec
from hermes_cli.options import here

__all__ = ["info", "mal"]

AS_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


def _print(lines: Iterable[str]) -> None:
    """Lines on stdout; on a terminal, those at the margin are headings."""
    for line in lines:
        click.echo(line if line.startswith(" ") else click.style(line, bold=True))


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _locate(model: str) -> str:
    """The model as `mal.load` reads it: of a run's folder, its newest checkpoint; of the Hub's,
    the folder here."""
    folder = here(model)
    model = str(folder) if model.startswith("hf:/") else model
    if folder.is_dir() and not (folder / "model.mal").is_file():
        from hermes.checkpoint import steps

        found = steps(folder)
        return str(found[0][1]) if found else model
    return model


def _foreign(model: str) -> ModelSpec | None:
    """The model of a Hugging Face folder or config.json; None where that is not one."""
    path = Path(model)
    if path.is_dir() and not (path / "model.mal").is_file():
        path = path / "config.json"
    if path.suffix != ".json" or not path.is_file():
        return None
    from hermes.checkpoint.files import read_small
    from hermes.interop.companions import read_object
    from hermes.interop.reading import spec_of

    return spec_of(read_object(read_small(path), str(path)))


def _progress(folder: Path) -> dict[str, Any] | None:
    """What progress.json says of a checkpoint, or None."""
    path = folder / "progress.json"
    if not path.is_file():
        return None
    from dataclasses import asdict

    from hermes.checkpoint.files import read_small
    from hermes.checkpoint.progress import read_progress

    return asdict(read_progress(read_small(path), str(path)))


def _progress_lines(progress: dict[str, Any]) -> list[str]:
    from hermes.report.units import columns

    end = f" of {progress['total_steps']:,}" if progress["total_steps"] else ""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in progress["metrics"].items())
    where = " ".join(filter(None, (progress["backend"], progress["device"])))
    rows = [
        ("  steps", f"{progress['step']:,}{end}"),
        ("  tokens", f"{progress['tokens']:,}"),
        ("  epoch", f"{progress['epoch']}, next sample {progress['sample']:,}"),
        *([("  metrics", metrics)] if metrics else []),
        *([("  written by", f"{where}, {progress['precision']}")] if where else []),
    ]
    return ["progress", *columns(rows)]


@click.command()
@click.option(
    "--model",
    "name",
    required=True,
    metavar="NAME|FILE|FOLDER",
    help="A bundled model, a MAL file (FILE:NAME for one of several), a checkpoint, a run, a "
    "Hugging Face folder or hf://OWNER/REPO.",
)
@AS_JSON
def info(name: str, as_json: bool) -> None:
    """An architecture's shape, parameters, FLOPs and memory, and which tools compute the same."""
    from hermes.interop.readers import verdicts
    from hermes.report.cost import cost_of
    from hermes.report.summary import cost_lines, shape_lines, title
    from hermes.report.units import columns

    source = _locate(name)
    foreign = _foreign(source)
    spec = foreign or language.load(source)
    readers = verdicts(spec, converted=foreign is not None)
    progress = _progress(Path(source)) if Path(source).is_dir() else None
    cost = cost_of(spec)
    if as_json:
        facts = _facts(spec) | vars(cost) | {"readers": readers}
        _print_json(facts | ({"progress": progress} if progress else {}))
        return
    _print([title(spec), "", *shape_lines(spec), "", *cost_lines(spec, cost)])
    _print(["", "readers", *columns([(f"  {name}", word) for name, word in readers.items()])])
    if progress:
        _print(["", *_progress_lines(progress)])


def _facts(spec: ModelSpec) -> dict[str, Any]:
    """A model's shape as plain data; values of layers are as MAL says them."""
    from hermes.report.shape import layer_groups, layer_keys

    return {
        "name": spec.name,
        "description": spec.description,
        "vocab_size": spec.vocab_size,
        "max_seq_len": spec.max_seq_len,
        "hidden_size": spec.hidden_size,
        "num_layers": spec.num_layers,
        "tie_weights": spec.embeddings.tie_weights,
        "layers": [
            {"indices": indices, **layer_keys(block)} for indices, block in layer_groups(spec)
        ],
        "mal": language.dumps(spec),
    }


@click.group(no_args_is_help=True)
def mal() -> None:
    """Check, format, show or compare architecture files.

    Each takes files, and bundled names too; `-` is standard input.
    """


def _open(name: str) -> tuple[language.MalFile, str | None]:
    """The file of that name, or standard input, and the model that is asked for in it."""
    if name == "-":
        return language.read_mal(sys.stdin.buffer.read(), "<stdin>"), None
    return language.open_mal(_locate(name))


@mal.command()
@click.argument("files", nargs=-1, required=True)
def check(files: tuple[str, ...]) -> None:
    """Check FILES: a line for each model, or the error. Exit code 1 where one has any."""
    from hermes.params import tensor_count

    failed = False
    for name in files:
        try:
            file, wanted = _open(name)
            models = [file.model(wanted)] if wanted else list(file.models.values())
        except HermesError as error:
            failed = True
            click.echo(f"Error: {error}", err=True)
            continue
        for spec in models:
            label = f"{file.source.file}:{spec.name}" if len(models) > 1 else file.source.file
            click.echo(f"ok  {label}  {tensor_count(spec):,} parameters")
    if failed:
        raise click.exceptions.Exit(1)


@mal.command("format")
@click.argument("files", nargs=-1, required=True)
@click.option("--write", is_flag=True, help="Write the files instead of stdout.")
@click.option("--check", "only_check", is_flag=True, help="Write nothing; exit 1 if one differs.")
@click.option("--drop-comments", is_flag=True, help="Let --write drop a file's comments.")
def format_(files: tuple[str, ...], write: bool, only_check: bool, drop_comments: bool) -> None:
    """Write FILES in canonical MAL: one spelling, fixed order, defaults left out.

    Comments are not kept: --write refuses a file that has any, unless --drop-comments. --check
    passes over comments and blank lines.
    """
    differing = False
    for name in files:
        file, wanted = _open(name)
        models = [file.model(wanted)] if wanted else list(file.models.values())
        text = language.dumps(*models)
        comments = len(file.tree.comments)
        label = file.source.file
        if only_check:
            if file.code_lines() != [line for line in text.splitlines() if line]:
                differing = True
                click.echo(f"{label} is not in canonical form", err=True)
        elif write:
            if file.path is None or wanted:
                raise HermesError(f"{name} is not a file that --write can change")
            if comments and not drop_comments:
                raise HermesError(
                    f"{label} has {comments} comment{'s' * (comments > 1)}, which would be lost; "
                    "--drop-comments to write it without"
                )
            _replace(file.path, text)
        else:
            if comments:
                what = "1 comment is" if comments == 1 else f"{comments} comments are"
                click.echo(f"Warning: {label}: {what} not kept", err=True)
            click.echo(text, nl=False)
    if differing:
        raise click.exceptions.Exit(1)


def _replace(path: str, text: str) -> None:
    """Replace a file's text at once, keeping its permissions; links stay links."""
    import tempfile

    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
        with tempfile.NamedTemporaryFile(
            "wb", dir=os.path.dirname(target), prefix=".tmp-", delete=False
        ) as file:
            file.write(text.encode("utf-8"))
        os.chmod(file.name, mode)
        os.replace(file.name, target)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"cannot write {path}: {reason}") from error


@mal.command()
@click.argument("file")
def show(file: str) -> None:
    """Every key of FILE's model and of its layers, with defaults and derived numbers."""
    from hermes.report.summary import layer_lines

    opened, wanted = _open(file)
    _print(layer_lines(opened.model(wanted)))


@mal.command()
@click.argument("a")
@click.argument("b")
@AS_JSON
def diff(a: str, b: str, as_json: bool) -> None:
    """What differs from model A to model B, and which of A's weights B could start from."""
    from hermes.report.diff import compare
    from hermes.report.summary import diff_lines

    specs = []
    for name in (a, b):
        file, wanted = _open(name)
        specs.append(file.model(wanted))
    difference = compare(*specs)
    if as_json:
        _print_json(difference.plain())
        return
    names = [spec.name for spec in specs]
    _print(diff_lines(difference, *(names if names[0] != names[1] else (a, b))))
