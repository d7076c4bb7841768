"""The cache of tokens: text that was tokenized once is not tokenized again.

A folder of the cache belongs to a tokenizer, options, and the names of files. sources.json in it
says which files those were, by size and time of change; where that differs, the files' hashes
decide whether the tokens are still theirs.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hermes.checkpoint import RunLock
from hermes.data.prepared.manifest import MANIFEST, open_prepared, read_manifest
from hermes.data.prepared.plan import PreparationOptions
from hermes.data.prepared.preparation import prepare_tokens
from hermes.data.progress import Watch, report_progress
from hermes.data.source_file import SourceFile
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError, HermesError, StorageError
from hermes.stages import report_stage
from hermes.storage.durable import Disk, delete_folder, write_atomically
from hermes.storage.locks import has_locks
from hermes.storage.plain_json import load_json
from hermes.storage.reading import hash_file

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["CACHED_FROM", "can_write_cache", "find_cache_folder", "open_cached", "wait_for_lock"]

CACHED_FROM = 8_000_000  # bytes of text, below which tokenizing again is faster than one notices
SOURCES = "sources.json"
# A file changed so shortly before it was read may have changed once more at the same time.
RECENT = 2_000_000_000  # nanoseconds
POLL_SECONDS = 0.5
HOMELESS = Path("~")  # the home of who has none


def find_cache_folder() -> Path:
    """The user's folder for caches, as their system has it."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "hermes" / "tokens"
    try:
        home = Path("~").expanduser()
    except RuntimeError:  # no HOME and no account, as of a container's user
        home = HOMELESS
    mac = sys.platform == "darwin"
    return (home / "Library" / "Caches" if mac else home / ".cache") / "hermes" / "tokens"


def open_cached(
    sources: Sequence[SourceFile],
    tokenizer: "Tokenizer",
    options: PreparationOptions,
    cache: Path,
    *,
    watch: Watch = report_progress,
    tell: Callable[[str], None] = lambda line: None,
    before: Callable[[Path], None] = lambda folder: None,
) -> TokenStream:
    """Open the tokens of files, tokenizing them where the cache has none.

    sources: by their absolute names. before: called with the folder before text is tokenized into
    it; may refuse it. Raises HermesError of every kind.
    """
    described = [source.name for source in sources]
    key = json.dumps(
        [_describe_tokenizer(tokenizer), options.describe(), described], sort_keys=True
    )
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
    with ExitStack() as stack:
        stack.enter_context(wait_for_lock(folder, tell, "tokenizes the same text"))
        if _is_current(folder, sources):
            tell(f"the tokens of the text are in {cache}, so it is not tokenized again")
        else:
            _remove(folder / "tokens", sources)
            before(folder)
            read_at = time.time_ns()
            prepare_tokens(
                [source.path for source in sources],
                tokenizer,
                folder / "tokens",
                options=options,
                watch=watch,
            )
            _write_sources(folder, sources, read_at)
        return open_prepared(folder / "tokens")


def _describe_tokenizer(tokenizer: "Tokenizer") -> list[object]:
    return [tokenizer.fingerprint, tokenizer.beginning, tokenizer.eos_id]


def can_write_cache(cache: Path) -> bool:
    """Whether the folder of a cache can be made, written to and locked."""
    if cache.is_relative_to(HOMELESS):
        return False
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return os.access(cache, os.W_OK | os.X_OK) and has_locks(cache)
    except OSError:
        return False


def wait_for_lock(folder: Path, tell: Callable[[str], None], doing: str) -> RunLock:
    """Lock a folder, waiting for another process that does the same. Raises StorageError."""
    waiting = f"waiting for another process that {doing}"
    told = False
    while True:
        try:
            lock = RunLock(folder)
        except StorageError:
            raise
        except HermesError:
            if not told:
                tell(waiting)
                report_stage(waiting)
            told = True
            time.sleep(POLL_SECONDS)
        else:
            if told:
                report_stage("")
            return lock


def _is_current(folder: Path, sources: Sequence[SourceFile]) -> bool:
    """Whether the tokens in a folder are of these files as they are now."""
    if not (folder / "tokens" / MANIFEST).exists():
        return False
    known = _read_sources(folder)
    now = [asdict(source) for source in sources]
    try:
        if known is not None and known == now:
            open_prepared(folder / "tokens")
            return True
        facts, _ = read_manifest(folder / "tokens")
        hashes = {one["name"]: one for one in facts["sources"]}
        read_at = time.time_ns()
        for source in sources:
            was = hashes.get(source.name, {})
            if was.get("size") != source.size or was.get("of") != "file":
                return False
            if hash_file(source.path) != was["sha256"]:
                return False
        open_prepared(folder / "tokens")
    except DataError:
        return False
    _write_sources(folder, sources, read_at)
    return True


def _read_sources(folder: Path) -> list[dict[str, object]] | None:
    try:
        found = load_json((folder / SOURCES).read_bytes())
        return found if isinstance(found, list) else None
    except (OSError, ValueError):
        return None


def _write_sources(folder: Path, sources: Sequence[SourceFile], read_at: int) -> None:
    """Remember the files' state; not of one that changed so recently that it may do so unseen."""
    if any(source.modified > read_at - RECENT for source in sources):
        (folder / SOURCES).unlink(missing_ok=True)
        return
    text = json.dumps([asdict(source) for source in sources])
    write_atomically(folder / SOURCES, text.encode())


def _remove(folder: Path, sources: Sequence[SourceFile]) -> None:
    """Remove tokens of other files; an unfinished preparation of these is kept, to be resumed."""
    from hermes.data.prepared.plan import PLAN

    if not folder.exists():
        return
    if not (folder / MANIFEST).exists():
        try:
            begun = load_json((folder / PLAN).read_bytes())["sources"]
            if begun == [source.describe() for source in sources]:
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
    delete_folder(folder, Disk())
