"""What names of files, folders and patterns stand for."""

import glob
import os
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from hermes.data.files import STANDARD_INPUT, Paths, describe_formats, find_format
from hermes.data.prepared_folder import is_begun, is_prepared
from hermes.data.remote import is_remote, list_remote, refuse_secrets
from hermes.errors import DataError, StorageError, explain_os_error
from hermes.storage.addresses import expand_home
from hermes.storage.path_kinds import CHECKPOINT, HF_MODEL, RUN, describe_kind

__all__ = [
    "expand_paths",
    "find_matches",
    "read_names",
    "refuse_several_prepared",
    "require_present",
]

LONGEST_NAME = 4096  # characters of a path, at most, on Linux
LONGEST_PART = 255  # bytes of a name between slashes, at most
MOST_WORDS = 5  # of such a name that is not there and is yet taken for one


def expand_paths(paths: Paths) -> list[Path]:
    """List the files that names, folders and patterns stand for; '-' stays as it is.

    So does an address such as s3://BUCKET/FILE, whose pattern stands for the files it matches.

    A folder stands for all files in and below it with a known ending, a pattern for the files it
    matches, both sorted by name; names that begin with a dot are hidden: AppleDouble's, say, or an
    editor's copies. Links are followed, but for those to a folder that they are in. Raises
    DataError where one stands for no file, leads nowhere, or is a folder of prepared tokens, and
    StorageError for a folder that cannot be read.
    """
    try:
        return [file for path in read_names(paths) for file in _expand_path(path)]
    except OSError as error:
        raise StorageError(f"cannot look at {error.filename}: {explain_os_error(error)}") from error


def require_present(names: Iterable[str | Path]) -> None:
    """Refuse names of files that are not there, before anything is loaded that takes long.

    Opens nothing; addresses, folders and patterns are left to `expand_paths`. Raises DataError.
    """
    for name in names:
        path = _check_name(name)
        is_file = path != STANDARD_INPUT and not is_remote(path) and not glob.has_magic(str(path))
        if is_file and not path.exists():
            _require_target(path)
            raise DataError(_describe_missing(path))


def refuse_several_prepared(named: Sequence[Path]) -> None:
    """Refuse a folder of prepared tokens beside other data without weights. Raises DataError."""
    if len(named) < 2 or not (prepared := [path for path in named if is_prepared(path)]):
        return
    other = next(path for path in named if path != prepared[0]) if len({*named}) > 1 else named[1]
    shares = " ".join(f"--data {shlex.quote(f'{path}:0.5')}" for path in (prepared[0], other))
    raise DataError(
        f"{prepared[0]} holds prepared tokens and is given beside {other}: give it alone, or give "
        f"each its share, as by {shares}"
    )


def _describe_missing(path: Path) -> str:
    return f"{path}: no such file; check the name"


def read_names(paths: Paths) -> list[Path]:
    """The names that are given, as paths. Raises DataError for what can be none."""
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    if not named:
        raise DataError(
            "no files of text are given; give a file, a folder, or - for standard input"
        )
    found = [_check_name(name) for name in named]
    if found.count(STANDARD_INPUT) > 1:
        raise DataError("standard input is given twice, and can be read once; keep one -")
    return found


def _check_name(name: object) -> Path:
    """A name as a path. Raises DataError for what names no file, such as a text itself."""
    if not isinstance(name, str | os.PathLike):
        raise DataError(
            f"data is a list of {type(name).__name__}, not of names of files; write the text to a "
            "file, and give its name"
        )
    text = expand_home(os.fspath(name))
    if not text:
        raise DataError("the name of a file is empty; give one, or . for the folder you are in")
    if "\n" in text or len(text) > LONGEST_NAME or _is_sentence(text):
        raise DataError(
            f"data is a text of {len(text):,} characters, not the name of a file; write it to a "
            "file, and give its name"
        )
    refuse_secrets(text)
    return Path(text)


def _is_sentence(text: str) -> bool:
    """Whether a name is a sentence instead, which may be private and is not to be repeated.

    No file system takes a part of more than 255 bytes, and what has many words and names no file
    is not likely to be the name of one.
    """
    path = Path(text)
    if is_remote(path):
        return False
    if any(len(os.fsencode(part)) > LONGEST_PART for part in path.parts):
        return True
    has_many_words = any(len(part.split()) > MOST_WORDS for part in path.parts)
    return has_many_words and not path.exists() and not find_matches(text)


def _expand_path(path: Path) -> Sequence[Path]:
    if is_remote(path):
        return list_remote(path)
    if path == STANDARD_INPUT or path.is_file() or path.is_fifo() or path.is_char_device():
        return [path]
    if path.is_dir():
        if found := _list_folder(path):
            return found
        raise DataError(
            f"{path}: the folder has no {describe_formats()} file in it; give one that has"
        )
    _require_target(path)
    if matched := find_matches(str(path)):
        return [file for match in matched for file in _expand_path(match)]
    if glob.has_magic(str(path)):
        raise DataError(f"{path}: the pattern matches no file; check the folder and the ending")
    raise DataError(_describe_missing(path))


def _list_folder(folder: Path) -> list[Path]:
    """List the files in and below a folder by name. Raises DataError, OSError."""
    found = []
    for place, folders, names in os.walk(folder, onerror=_raise_error, followlinks=True):
        here = Path(place)
        _require_text_folder(here)
        folders[:] = [n for n in folders if n[0] != "." and not _is_loop(here / n)]
        for file in (here / name for name in names if name[0] != "."):
            if find_format(file) is None:
                continue
            _require_target(file)
            if file.is_file():
                found.append(file)
    return sorted(found)


def _raise_error(error: OSError) -> NoReturn:
    raise error


def _require_text_folder(folder: Path) -> None:
    """Raise DataError for a folder of prepared tokens, whose .json files are no text."""
    if is_prepared(folder):
        raise DataError(
            f"{folder} holds prepared tokens, where text is needed; name the text that it was "
            "made from (train and eval take the folder alone, hermes data verify checks it)"
        )
    if (kind := describe_kind(folder)) in (RUN, CHECKPOINT, HF_MODEL):
        raise DataError(f"{folder} is {kind}, where text is needed; name the text itself")
    if is_begun(folder):
        raise DataError(
            f"{folder} holds tokens that are not all prepared yet; give the command again that "
            "prepares them, or hermes prepare --merge once all parts are done"
        )


def _require_target(path: Path) -> None:
    """Raise DataError for a link to what is not there."""
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"{path}: a link to {os.readlink(path)}, which is not there; restore that, or delete "
            "the link"
        )


def _is_loop(path: Path) -> bool:
    """Whether a path is a link to a folder that it is in, which would be read over and over."""
    if not path.is_symlink():
        return False
    target, parent = path.resolve(), path.parent.resolve()
    return target == parent or target in parent.parents


def find_matches(pattern: str) -> list[Path]:
    """Find the files and folders that a pattern stands for, by name.

    As much of it as is there is taken as it is, so a folder may have brackets in its name. Links to
    a folder that they are in are not followed.
    """
    if not glob.has_magic(pattern):
        return []
    parts, base = list(Path(pattern).parts), Path()
    while parts and os.path.lexists(base / parts[0]):
        base /= parts.pop(0)
    if not parts:
        return []
    is_loop = cache(_is_loop)
    found = sorted(glob.glob(os.path.join(*parts), root_dir=base, recursive=True))

    def is_again(name: str) -> bool:
        path = Path(name)
        return any(is_loop(base / part) for part in (path, *path.parents))

    return [base / name for name in found if not is_again(name)]
