"""Reads the rows of Parquet files, a part of a row group at a time."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.data.compression import strip_compression
from hermes.data.files import STANDARD_INPUT, describe_empty, name_source, open_source
from hermes.data.text_field import describe_missing_text
from hermes.errors import DataError, HermesError

__all__ = ["read_rows"]

ROWS = 1024  # read at a time
# What pyarrow raises where Python has no such value: years beyond 9999, unknown time zones,
# nanoseconds without pandas, text that is not UTF-8.
NO_VALUE = (ValueError, ArithmeticError, LookupError, TypeError, ImportError, NotImplementedError)


@dataclass(frozen=True, repr=False)
class UnreadableValue:
    """A value that Python does not have. kind: its type, as pyarrow has it."""

    kind: str

    def __repr__(self) -> str:
        return f"an unreadable {self.kind}"


def read_rows(
    path: Path,
    columns: Sequence[str] | None = None,
    on_share: Callable[[float], None] = lambda share: None,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each row as an object, with its number from 0. columns: which to read, None for all.

    on_share: told which share of the rows is read. Bytes of a text that are not UTF-8 become lone
    surrogates (PEP 383). Memory grows with the size of a row group, not with the file. Raises
    DataError, StorageError, and HermesError where pyarrow is missing.
    """
    if path == STANDARD_INPUT:
        raise DataError("standard input: a Parquet file is not read in order; name the file")
    if strip_compression(path.name)[1]:
        raise DataError(
            f"{name_source(path)}: a Parquet file is compressed inside; decompress this one"
        )
    number = 0
    with open_source(path) as file, _translate_errors(path) as arrow:
        table = arrow.ParquetFile(file)
        names = [field.name for field in table.schema_arrow]
        counts = Counter(names)
        for name in columns or names:
            if not counts[name]:
                raise DataError(f"{name_source(path)}: {describe_missing_text(name, names)}")
            if counts[name] > 1:
                raise DataError(f"{name_source(path)}: more than one field {name!r}; keep one")
        for batch in table.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
            on_share((number + len(batch)) / max(table.metadata.num_rows, 1))
            for row in _list_rows(batch):
                yield row, number
                number += 1
    if not number:
        raise DataError(describe_empty(path, "record"))


def _list_rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a record batch as objects."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except NO_VALUE:
        names = batch.schema.names
        columns = [[_convert_scalar(one) for one in column] for column in batch.columns]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _convert_scalar(scalar: Any) -> Any:
    """A value of a column for Python."""
    try:
        return scalar.as_py()
    except NO_VALUE as error:
        text = getattr(scalar, "value", scalar)  # of a dictionary's column its entry
        if isinstance(error, UnicodeDecodeError) and hasattr(text, "as_buffer"):
            return text.as_buffer().to_pybytes().decode(errors="surrogateescape")
        return UnreadableValue(str(scalar.type))


@contextmanager
def _translate_errors(path: Path) -> Iterator[Any]:
    """Yield pyarrow.parquet; its errors about the file are DataError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise HermesError(
            "reading .parquet needs pyarrow; pip install 'hermes-llm[parquet]'"
        ) from None
    try:
        yield pyarrow.parquet
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise _describe(path, error) from None
    except OSError as error:
        # pyarrow raises OSError without a number for damaged pages.
        if error.errno is not None:
            raise
        raise _describe(path, error) from None


def _describe(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).rstrip(".")
    return DataError(
        f"{name_source(path)}: not a whole Parquet file ({reason[:1].lower()}{reason[1:160]}); "
        "copy or write it again"
    )
