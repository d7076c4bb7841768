"""The tokens of whatever data is given: prepared shards, token files, or text, cached or not."""

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hermes.data.bad_records import BadRecords
from hermes.data.document_reader import (
    Document,
    TextFormat,
    choose_format,
    read_documents,
    read_file,
    require_text,
)
from hermes.data.file_names import expand_paths, read_names, refuse_several_prepared
from hermes.data.files import Paths
from hermes.data.prepared.cache import (
    CACHED_FROM,
    can_write_cache,
    find_cache_folder,
    open_cached,
)
from hermes.data.prepared.manifest import is_prepared, open_prepared, read_manifest
from hermes.data.prepared.plan import PreparationOptions
from hermes.data.progress import Watch, report_progress
from hermes.data.remote import is_remote
from hermes.data.remote_tokens import fetch_token_file
from hermes.data.source_file import (
    CountingFile,
    ReadMeter,
    SourceFile,
    find_source,
    require_unchanged,
)
from hermes.data.token_files import is_token_file, open_token_files
from hermes.data.token_space import check_token_space
from hermes.data.token_stream import TokenStream, tokenize
from hermes.errors import DataError
from hermes.storage.addresses import require_local
from hermes.storage.temporary import find_temporary_folder

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["DataOptions", "load_tokens", "open_token_folder"]


@dataclass(frozen=True)
class DataOptions:
    """How data is read.

    max_bad_records: None to stop at the first bad record, else the share of all that may be left
    out. cache_dir: where tokens of text are kept; None for the user's cache, and not for little
    text. watch: told how far tokenizing is. tell: given lines for the user. force: tokenize
    although the tokens seem not to fit on the disk.
    """

    text_format: TextFormat = field(default_factory=TextFormat)
    max_bad_records: float | None = None
    cache_dir: Path | None = None
    watch: Watch = report_progress
    tell: Callable[[str], None] = lambda line: None
    force: bool = False

    def __post_init__(self) -> None:
        if self.cache_dir is not None:
            require_local(self.cache_dir, "tokens")


def load_tokens(paths: Paths, tokenizer: "Tokenizer", options: DataOptions) -> TokenStream:
    """Open or make the tokens of data.

    A folder of `hermes prepare` is opened as it is, and so are token files (.bin), those at an
    address after they are copied into the cache; text is tokenized, or opened from the cache.
    Raises DataError where one is mixed with another or was made with another tokenizer, and
    StorageError.
    """
    named = read_names(paths)
    if any(is_prepared(path) for path in named):
        return _open_prepared(named, tokenizer)
    files = expand_paths(named)
    of_tokens = [path for path in files if is_token_file(path)]
    if of_tokens and len(of_tokens) < len(files):
        text = next(path for path in files if not is_token_file(path))
        raise DataError(f"{of_tokens[0]} holds tokens and {text} text; give one kind of them")
    if of_tokens:
        cache = options.cache_dir or find_cache_folder()
        local = [
            fetch_token_file(path, cache, options.tell) if is_remote(path) else path
            for path in of_tokens
        ]
        return open_token_files(local, tokenizer)
    return _load_text(files, tokenizer, options)


def open_token_folder(folder: Path) -> TokenStream:
    """Open the tokens that another process made or opened. Raises DataError, StorageError."""
    return open_prepared(folder) if is_prepared(folder) else TokenStream.open(folder)


def _open_prepared(named: Sequence[Path], tokenizer: "Tokenizer") -> TokenStream:
    refuse_several_prepared(named)
    stream = open_prepared(named[0])
    facts, _ = read_manifest(named[0])
    made = facts["tokenizer"]["fingerprint"]
    if made != tokenizer.fingerprint:
        raise DataError(
            f"{named[0]} was prepared with a tokenizer of fingerprint {made[:12]}, and this one "
            f"has {tokenizer.fingerprint[:12]}; give --tokenizer {named[0]}"
        )
    _check_boundaries(named[0], facts["tokenizer"], tokenizer)
    return stream


def _check_boundaries(folder: Path, made: Mapping[str, Any], tokenizer: "Tokenizer") -> None:
    """Raise DataError where prepared texts begin or end with other tokens than they would here."""

    def name(ids: Sequence[int | None]) -> str:
        return next((repr(tokenizer.get_name(one)) for one in ids if one is not None), "nothing")

    if made["eos_id"] != tokenizer.eos_id:
        raise DataError(
            f"texts end with {name([made['eos_id']])} in {folder} and with "
            f"{name([tokenizer.eos_id])} here; give --eos "
            f"{shlex.quote(tokenizer.get_name(made['eos_id']))}, or prepare them again"
        )
    if made["beginning"] != tokenizer.beginning:
        raise DataError(
            f"texts begin with {name(made['beginning'])} in {folder} and with "
            f"{name(tokenizer.beginning)} here; give "
            f"{'--bos' if made['beginning'] else '--no-bos'}, or prepare them again"
        )


def _load_text(files: Sequence[Path], tokenizer: "Tokenizer", options: DataOptions) -> TokenStream:
    kinds = [choose_format(path, options.text_format) for path in files]
    sources = [find_source(path, kind) for path, kind in zip(files, kinds, strict=True)]

    def check_space(folder: Path) -> None:
        if all(source.is_file for source in sources):
            bad = None if options.max_bad_records is None else BadRecords(1.0)
            sample = read_documents(files, **vars(options.text_format), bad=bad)
            for note in check_token_space(folder, sources, sample, tokenizer, options.force):
                options.tell(note)

    if _should_cache(sources, tokenizer, options):
        sources = [replace(one, name=os.path.abspath(one.name)) for one in sources]
        cache = options.cache_dir or find_cache_folder()
        if options.cache_dir is not None or can_write_cache(cache):
            own = PreparationOptions(options.text_format, max_bad_records=options.max_bad_records)
            return open_cached(
                sources,
                tokenizer,
                own,
                cache,
                watch=options.watch,
                tell=options.tell,
                before=check_space,
            )
        options.tell(
            f"{cache} cannot be written to or locked, so the text is tokenized at each start"
        )
    check_space(find_temporary_folder())
    bad = None if options.max_bad_records is None else BadRecords(options.max_bad_records)
    reading = _SourceReading(sources, options.text_format, bad)
    stream = tokenize(
        reading.read(),
        tokenizer,
        watch=options.watch,
        size=reading.size,
        count_read=reading.count_read,
    )
    notes: list[str] = []
    try:
        for source in sources:
            require_unchanged(source, None)
        if bad is not None:
            bad.check()
            notes = bad.describe()
    except DataError:
        stream.close()
        raise
    return replace(stream, sources=len(files), notes=tuple(notes))


class _SourceReading:
    """Reads the documents of sources, and counts the bytes that they are from."""

    def __init__(
        self, sources: Sequence[SourceFile], text_format: TextFormat, bad: BadRecords | None
    ):
        self._sources, self._format, self._bad = sources, text_format, bad
        self._meters: list[ReadMeter] = []
        known = all(source.is_file for source in sources)
        self.size = sum(source.size for source in sources) if known else 0

    def read(self) -> Iterator[Document]:
        """Yield the documents of all sources in order. Raises DataError, StorageError."""
        return require_text(self._read_all(), [source.name for source in self._sources], self._bad)

    def _read_all(self) -> Iterator[Document]:
        for source in self._sources:
            meter, files = ReadMeter(source, self._format.documents), list[CountingFile]()
            self._meters.append(meter)

            def wrap(file: BinaryIO, held: list[CountingFile] = files) -> BinaryIO:
                held.append(CountingFile(file))
                return held[0].as_file()

            documents = read_file(
                source.path,
                source.kind,
                self._format,
                bad=self._bad,
                wrap=wrap,
                on_share=meter.take_share,
            )
            for one in documents:
                meter.add(len(one.text.encode()), files[0] if files else None)
                yield one

    def count_read(self) -> int:
        """Count the bytes of the sources that the documents so far are from."""
        return sum(meter.read for meter in self._meters)


def _should_cache(
    sources: Sequence[SourceFile], tokenizer: "Tokenizer", options: DataOptions
) -> bool:
    if tokenizer.eos_id is None or not all(source.is_file for source in sources):
        return False
    return options.cache_dir is not None or sum(s.size for s in sources) >= CACHED_FROM
