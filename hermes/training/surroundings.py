"""Watches what a run stands on while it trains: its own folder, and the files of its data."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hermes.data import expand_paths
from hermes.data.files import STANDARD_INPUT
from hermes.data.mixture import strip_weights
from hermes.data.prepared_folder import is_prepared
from hermes.data.token_files import ENDING
from hermes.errors import HermesError, StorageError
from hermes.formatting import format_count

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
            names = strip_weights(data)
        except HermesError:
            names = ()
        self._trained = [path for name in names for path in _list_files(name)]
        self._held_out = [path for name in validation for path in _list_files(name)]
        self._facts = {path: _describe(path) for path in (*self._trained, *self._held_out)}

    def warn_repeated(self) -> None:
        """Warn of files that are given twice, or that are validation text as well."""
        trained = [(path, _identify(path)) for path in self._trained]
        counts = Counter(one for _, one in trained)
        held_out = {_identify(path) for path in self._held_out}
        twice = [path for path, one in trained if one and counts[one] > 1]
        shared = [path for path, one in trained if one and one in held_out]
        for found, what in (
            (twice, "given more than once, and trained on as often"),
            (shared, "trained on and validation text at once, so the validation loss says little"),
        ):
            names = list(dict.fromkeys(map(str, found)))
            if names:
                more = f" and {format_count(len(names) - 1, 'more files')}" if names[1:] else ""
                warnings.warn(f"{names[0]}{more} {'are' if more else 'is'} {what}", stacklevel=2)

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
