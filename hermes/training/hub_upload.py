"""A run's model to the Hub: at its end, or each checkpoint while it trains.

What converts and uploads is imported where it is asked for: most runs start without it.
"""

import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

from hermes.distributed.agreement import all_or_none
from hermes.distributed.process_group import ProcessGroup
from hermes.errors import HermesError
from hermes.storage.durable import Disk, link_or_copy
from hermes.training.events import Event, Saved

__all__ = ["HubUploads", "Push", "read_push", "require_writable_repo"]


@dataclass(frozen=True)
class Push:
    """The repository that gets the model: at the end, or also at every save."""

    repo: str
    every_save: bool


def read_push(repo: str | None, every_save: bool) -> Push | None:
    """The repository that gets the model, None for none. Raises HermesError."""
    if every_save and not repo:
        raise HermesError("--push-every-save needs --push-to-hub OWNER/REPO")
    if repo:
        from hermes.interop.publish import require_repo_name

        require_repo_name(repo)
    return Push(repo, every_save) if repo else None


def require_writable_repo(push: Push | None, process_group: ProcessGroup) -> None:
    """Refuse before the training what could not be pushed after it. Raises HermesError."""
    if push is None:
        return
    from hermes.interop.publish import require_writable

    first = process_group.rank_info.rank == 0
    all_or_none(process_group, lambda: require_writable(push.repo) if first else None)


class HubUploads:
    """A block around a run that pushes its model: each checkpoint if asked to, and the last one.

    Checkpoints are pushed in order, one at a time, while the training goes on; a failure is a
    warning then. At the block's end those that are left are pushed, and `last` unless it was; an
    error drops them. tell: given lines for the user. push_model: pushes the last one. last: the
    checkpoint at the run's end, None in a rank that writes nothing. pushed: those that are there.
    """

    def __init__(
        self,
        push: Push | None,
        tell: Callable[[str], None],
        push_model: Callable[[Path, str], None] | None = None,
    ):
        self._push, self._tell = push, tell
        self._push_model = push_model or self._push_quietly
        self.last: Path | None = None
        self.pushed: set[Path] = set()
        self._one = ThreadPoolExecutor(1, "push")
        self._held: list[Path] = []

    def __enter__(self) -> Self:
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
        if error is None and self._push and self.last and self.last not in self.pushed:
            self._push_last(self.last, self._push.repo)

    def _push_last(self, checkpoint: Path, repo: str) -> None:
        """Push the model of a run that is done; an error says how to do it again."""
        try:
            self._push_model(checkpoint, repo)
        except HermesError as error:
            again = f"hermes push {shlex.quote(str(checkpoint))} {repo}"
            raise type(error)(f"{error}; the run is saved, and pushed by: {again}") from None

    def _push_quietly(self, checkpoint: Path, repo: str) -> None:
        from hermes.interop.publish import publish

        done = publish(checkpoint, repo)
        self._tell(f"pushed: {done.page}, commit {done.commit[:12]}")

    def push_saved(self, event: Event) -> None:
        """Push a checkpoint that is whole on disk, where each is wanted."""
        if not isinstance(event, Saved) or self._push is None or not self._push.every_save:
            return
        with self._warn_on_failure(event.path):
            # The run may delete its old checkpoints meanwhile; linked, the files stay.
            held = Path(mkdtemp(prefix=".tmp-push-", dir=event.path.parent))
            self._held.append(held)
            shutil.copytree(event.path, held / event.path.name, copy_function=_link)
            self._one.submit(self._publish, event.path, held, self._push.repo)

    def _publish(self, checkpoint: Path, held: Path, repo: str) -> None:
        from hermes.interop.publish import publish

        try:
            with self._warn_on_failure(checkpoint):
                # In NumPy, as the backend is busy training.
                done = publish(held / checkpoint.name, repo, backend="numpy")
                self.pushed.add(checkpoint)
                where = f"{done.page}, commit {done.commit[:12]}"
                self._tell(f"pushed: {checkpoint.name} to {where}")
        finally:
            shutil.rmtree(held, ignore_errors=True)

    @contextmanager
    def _warn_on_failure(self, checkpoint: Path) -> Iterator[None]:
        """A block whose failure, of any kind, is a warning, and training continues."""
        try:
            yield
        except Exception as error:
            what = error if isinstance(error, HermesError) else type(error).__name__
            self._tell(f"Warning: {checkpoint.name} is not pushed: {what}")


def _link(source: str, target: str) -> None:
    link_or_copy(Path(source), Path(target), Disk())
