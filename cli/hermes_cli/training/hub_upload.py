"""Pushes a model to the Hub."""

from pathlib import Path

import click

__all__ = ["push_model"]


def push_model(
    checkpoint: Path,
    repo: str,
    *,
    to: str = "hermes",
    dtype: str | None = None,
    public: bool = False,
    config: Path | None = None,
    ignore_fields: tuple[str, ...] = (),
    force: bool = False,
) -> None:
    """Put a model on the Hub and say where it is. Raises HermesError."""
    from hermes.interop.publish import publish

    done = publish(
        checkpoint,
        repo,
        to=to,
        dtype=dtype,
        public=public,
        config=config,
        ignore_fields=ignore_fields,
        force=force,
    )
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"pushed: {done.page}, commit {done.commit[:12]}", err=True)
