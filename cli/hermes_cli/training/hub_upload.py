"""A run's model to the Hub: at its end, or each checkpoint behind the training."""

import os
import shlex
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import TYPE_CHECKING

import click

from hermes.errors import HermesError
from hermes_cli.options.resolve import ResolvedOptions

if TYPE_CHECKING:
    from hermes.training.events import Event

__all__ = ["EverySave", "Push", "push_at_end", "push_of"]


@dataclass(frozen=True)
class Push:
    """The repository that gets the model: at the end, or also at every save."""

    repo: str
    every_save: bool


def push_of(options: ResolvedOptions) -> Push | None:
    """Where the model goes. Raises HermesError."""
    repo, every = options["push_to_hub"], options["push_every_save"]
    if every and not repo:
        raise HermesError("--push-every-save needs --push-to-hub OWNER/REPO")
    return Push(repo, every) if repo else None


def push_at_end(checkpoint: Path, repo: str) -> None:
    """Push the model of a run that is done; an error says how to do it again."""
    from hermes_cli.training.hub_upload import pushed

    try:
        pushed(checkpoint, repo)
    except HermesError as error:
        again = f"hermes push {shlex.quote(str(checkpoint))} {repo}"
        raise type(error)(f"{error}; the run is saved, and pushed by: {again}") from None


class EverySave:
    """A block in which checkpoints are pushed in order, one at a time; a failure is a warning.

    Its end waits for those that are left; one by an error drops them. pushed: those that are there.
    """

    def __init__(self, repo: str):
        self.repo = repo
        self.pushed: set[Path] = set()
        self._one = ThreadPoolExecutor(1, "push")
        self._held: list[Path] = []

    def __enter__(self) -> "EverySave":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._one.shutdown(cancel_futures=error is not None)
        for held in self._held:
            shutil.rmtree(held, ignore_errors=True)

    def see(self, event: "Event") -> None:
        """Take a checkpoint that is whole."""
        from hermes.training.events import Saved

        if not isinstance(event, Saved):
            return
        with self._warning(event.path):
            # The run may delete its old checkpoints meanwhile; linked, the files stay.
            held = Path(mkdtemp(prefix=".tmp-push-", dir=event.path.parent))
            self._held.append(held)
            shutil.copytree(event.path, held / event.path.name, copy_function=_link)
            self._one.submit(self._push, event.path, held)

    def _push(self, checkpoint: Path, held: Path) -> None:
        from hermes.interop.publish import publish

        try:
            with self._warning(checkpoint):
                # In NumPy, for the backend trains.
                done = publish(held / checkpoint.name, self.repo, backend="numpy")
                self.pushed.add(checkpoint)
                where = f"{done.page}, commit {done.commit[:12]}"
                click.echo(f"pushed: {checkpoint.name} to {where}", err=True)
        finally:
            shutil.rmtree(held, ignore_errors=True)

    @contextmanager
    def _warning(self, checkpoint: Path) -> Iterator[None]:
        """A block whose failure is a warning, whatever it is, and training goes on."""
        try:
            yield
        except Exception as error:
            what = error if isinstance(error, HermesError) else type(error).__name__
            click.echo(f"Warning: {checkpoint.name} is not pushed: {what}", err=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without links
        shutil.copyfile(source, target)


def pushed(
    checkpoint: Path,
    repo: str,
    *,
    to: str = "hermes",
    dtype: str | None = None,
    public: bool = False,
    config: Path | None = None,
) -> None:
    """Put a model on the Hub and say where it is. Raises HermesError."""
    from hermes.interop.publish import publish
    from hermes_cli.display.conversion import show_conversion

    with show_conversion() as on_progress:
        done = publish(
            checkpoint,
            repo,
            to=to,
            dtype=dtype,
            public=public,
            config=config,
            on_progress=on_progress,
        )
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"pushed: {done.page}, commit {done.commit[:12]}", err=True)
