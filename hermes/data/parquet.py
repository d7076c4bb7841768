"""Reads the rows of Parquet files, a part of a row group at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hermes.data.compression import strip_compression
from hermes.data.files import STANDARD_INPUT, describe_empty, name_source, open_source
from hermes.data.text_field import advise_text_field
from hermes.errors import DataError, HermesError
from hermes.formatting import describe_missing

__all__ = ["read_rows"]

ROWS = 1024  # read at a time


def read_rows(
    path: Path,
    columns: Sequence[str] | None = None,
    on_share: Callable[[float], None] = lambda share: None,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each row as an object, with its number from 0. columns: which to read, None for all.

    on_share: told which share of the rows is read. Memory grows with the size of a row group, not
    with the file. Raises DataError, StorageError, and HermesError where pyarrow is missing.
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
        for name in columns or ():
            if name not in names:
                missing = describe_missing(name, names, advise_text_field(names), chosen=True)
                raise DataError(f"{name_source(path)}: {missing}")
        for batch in table.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
            on_share((number + len(batch)) / max(table.metadata.num_rows, 1))
            for row in batch.to_pylist():
                yield row, number
                number += 1
    if not number:
        raise DataError(describe_empty(path, "record"))


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
