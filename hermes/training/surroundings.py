"""Watches what a run stands on while it trains: its own folder, and the files of its data."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hermes.data import expand_paths
from hermes.data.files import STANDARD_INPUT
from hermes.data.mixture import strip_weights
from hermes.data.prepared_folder import is_prepared
from hermes.data.token_files import ENDING
from hermes.errors import HermesError, StorageError

__all__ = ["DataFiles", "RunFolder"]


class RunFolder:
    """The folder in which a run began, whatever its name is later."""

    def __init__(self, path: Path):
        self._path, self._identity = path, _identify(path)

    def require_in_place(self) -> None:
        """Refuse to write where the folder no longer is: a second one would be made there.

        Raises StorageError.
        """
        if self._identity is not None and _identify(self._path) != self._identity:
            raise StorageError(
                f"{self._path} is no longer the folder that the run began in: it was renamed, "
                "moved or deleted while the run trained; put it back and resume from its last "
                "checkpoint"
            )

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """A block whose StorageError is that of `require_in_place` where that is the cause."""
        try:
            yield
        except StorageError:
            self.require_in_place()
            raise


class DataFiles:
    """The files that a run's data was read from, as they were when it began to train.

    The run keeps to the text that it read; but to resume it would read the files again. Files of
    tokens, also those of a prepared folder, it reads as it goes.
    """

    def __init__(self, data: Sequence[str], validation: Sequence[str] = ()):
        try:
            names = [*strip_weights(data), *validation]
        except HermesError:
            names = []
        paths = [path for name in names for path in _list_files(name)]
        self._facts = {path: _describe(path) for path in paths}

    def warn_changed(self) -> None:
        """Warn of each file that has changed since, once."""
        for path in [path for path, facts in self._facts.items() if _describe(path) != facts]:
            del self._facts[path]
            what = "text"
            found = "keeps to the text as it read it"
            if path.suffix == ENDING:
                what, found = "file", "reads its tokens as it goes, so it may have trained on both"
            warnings.warn(
                f"{path} has changed while the run trains; the run {found}, but can be resumed "
                f"with that {what} alone",
                stacklevel=2,
            )


def _list_files(name: str) -> list[Path]:
    """The files behind a name of data; none of what is not on this machine's disks."""
    if Path(name) == STANDARD_INPUT or "://" in name:
        return []
    try:
        return sorted(Path(name).iterdir()) if is_prepared(Path(name)) else expand_paths([name])
    except (HermesError, OSError):
        return []


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _describe(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
