"""Watches what a run stands on while it trains: its own folder, and the files of its data."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hermes.data import expand_paths
from hermes.data.mixture import strip_weights
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

    The run keeps to what it read; but to resume it would read them again.
    """

    def __init__(self, data: Sequence[str]):
        try:
            names = expand_paths([n for n in strip_weights(data) if n != "-" and "://" not in n])
        except HermesError:
            names = []
        self._facts = {path: _describe(path) for path in map(Path, names)}

    def warn_changed(self) -> None:
        """Warn of each file that has changed since, once."""
        for path in [path for path, facts in self._facts.items() if _describe(path) != facts]:
            del self._facts[path]
            warnings.warn(
                f"{path} has changed while the run trains; the run keeps to the text as it read "
                "it, but can be resumed with that text alone",
                stacklevel=2,
            )


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
