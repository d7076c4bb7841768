"""`hermes mal`: check, format, show or compare architecture files."""

import sys
from pathlib import Path

import click

from hermes import mal as language
from hermes.errors import HermesError, MalError
from hermes.formatting import format_count
from hermes.interop.architecture import read_architecture
from hermes.spec import ModelSpec
from hermes.storage.durable import write_atomically
from hermes_cli.display.help_sections import SectionedGroup
from hermes_cli.display.printing import print_json, print_lines
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.model_paths import locate_model

__all__ = ["mal"]

MOST_MISTAKES = 20  # that are shown of a file, which may be none of MAL at all


@click.group(cls=SectionedGroup, no_args_is_help=True)
def mal() -> None:
    """Check, format, show or compare architecture files.

    All commands take .mal files, names of bundled models, and `-` for standard input.
    """


def _open(name: str, mistakes: list[MalError] | None = None) -> tuple[language.MalFile, str | None]:
    """Open the file of that name, or standard input; with the model named after a colon, if any.

    mistakes: gets all mistakes of the file.
    """
    if name == "-":
        return language.read_mal(sys.stdin.buffer.read(), "<stdin>", mistakes=mistakes), None
    return language.open_mal(locate_model(name), mistakes=mistakes)


def _read(name: str) -> ModelSpec:
    """Read the one model of that name, or of standard input, in whatever format it is."""
    if name == "-":
        file, wanted = _open(name)
        return file.get_model(wanted)
    return read_architecture(name)


@declare_command("mal check", mal)
def check(files: tuple[str, ...]) -> None:
    """Check architecture files.

    Prints one line per model, or the mistakes with their positions, of each file the first 20.
    Exits with 1 if there are any.
    """
    from hermes.numerics.params import count_parameters

    failed = False
    for name in files:
        mistakes: list[MalError] = []
        try:
            file, wanted = _open(name, mistakes)
            models = [file.get_model(wanted)] if wanted else list(file.models.values())
        except HermesError as error:
            failed = True
            for text in map(str, mistakes[:MOST_MISTAKES]) if mistakes else [str(error)]:
                click.echo(f"Error: {text}", err=True)
            if more := len(mistakes[MOST_MISTAKES:]):
                click.echo(f"Error: {name}: {format_count(more, 'more mistakes')}", err=True)
            continue
        for spec in models:
            label = f"{file.source.file}:{spec.name}" if len(models) > 1 else file.source.file
            click.echo(f"ok  {label}  {count_parameters(spec):,} parameters")
    if failed:
        raise click.exceptions.Exit(1)


@declare_command("mal format", mal)
def format_(files: tuple[str, ...], write: bool, only_check: bool, drop_comments: bool) -> None:
    """Format architecture files canonically.

    Canonical MAL has one spelling, a fixed order of keys, and no defaults. Comments are not
    preserved: --write refuses files that have any, unless --drop-comments is given. --check ignores
    comments and blank lines.
    """
    differing = False
    for name in files:
        file, wanted = _open(name)
        models = [file.get_model(wanted)] if wanted else list(file.models.values())
        text = language.dumps(*models)
        comments = len(file.tree.comments)
        label = file.source.file
        if only_check:
            if file.list_code_lines() != [line for line in text.splitlines() if line]:
                differing = True
                click.echo(f"{label} is not in canonical form", err=True)
        elif write:
            if file.path is None or wanted:
                raise HermesError(f"{name} is not a file that --write can change")
            if comments and not drop_comments:
                raise HermesError(
                    f"{label} has {comments} comment{'s' * (comments > 1)}, which would be lost; "
                    "give --drop-comments to write it without them"
                )
            write_atomically(Path(file.path), text.encode("utf-8"))
        else:
            if comments:
                what = format_count(comments, "comments are", "comment is")
                click.echo(f"Warning: {label}: {what} not kept", err=True)
            click.echo(text, nl=False)
    if differing:
        raise click.exceptions.Exit(1)


@declare_command("mal show", mal)
def show(file: str) -> None:
    """Show every key of a model and its layers, with defaults and derived numbers."""
    from hermes.model_info.summary import format_layers

    print_lines(format_layers(_read(file)))


@declare_command("mal diff", mal)
def diff(a: str, b: str, as_json: bool) -> None:
    """Show what differs between two models.

    Also says which of the weights of A could initialize B.
    """
    from hermes.model_info.diff import compare
    from hermes.model_info.summary import format_diff

    specs = [_read(a), _read(b)]
    difference = compare(*specs)
    if as_json:
        print_json(difference.to_dict())
        return
    names = [spec.name for spec in specs]
    print_lines(format_diff(difference, *(names if names[0] != names[1] else (a, b))))
