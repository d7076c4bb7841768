"""Streams datasets of the Hugging Face Hub, hf://datasets/OWNER/NAME[/CONFIG][:SPLIT].

A file of such a repository, hf://datasets/OWNER/NAME/train.jsonl, is an address like any other, see
`hermes.data.remote`; here are those that the datasets library has to make sense of.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hermes.data.files import find_format
from hermes.data.records import Record
from hermes.errors import DataError, HermesError, StorageError
from hermes.storage.hub_log import hide_retries

__all__ = ["is_hub_dataset", "read_hub_dataset"]

NAME = re.compile(
    r"hf:/+datasets/(?P<repo>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>[^/]+))?"
)
SPLIT = "train"


def is_hub_dataset(path: Path) -> bool:
    """Whether a name is a dataset on the Hub, and not a file of one."""
    return NAME.fullmatch(str(path)) is not None and find_format(path) is None


def read_hub_dataset(path: Path) -> Iterator[Record]:
    """Yield the rows of a dataset, each an object. Raises HermesError of every kind."""
    found = NAME.fullmatch(str(path))
    assert found is not None, "asked only for what is_hub_dataset"
    name = f"hf://datasets/{str(path).split('datasets/', 1)[1]}"
    datasets = _import_datasets(name)
    try:
        rows = datasets.load_dataset(
            found["repo"], found["config"], split=found["split"] or SPLIT, streaming=True
        )
        for number, row in enumerate(rows):
            yield Record(row, f"{name}[{number}]", number + 1)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such dataset ({_shorten(error)}); check the name") from None
    except ValueError as error:
        raise DataError(f"{name}: {_shorten(error)}") from None
    except OSError as error:
        raise StorageError(f"cannot read {name}: {_shorten(error)}") from error


def _import_datasets(name: str) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise HermesError(
            f"{name}: reading it needs datasets; pip install 'hermes-llm[datasets]'"
        ) from None
    hide_retries()
    return datasets


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
