"""Files of TOML entries of one kind, as those of expected failures and of equivalent mutants."""

import tomllib
from pathlib import Path
from typing import Any

from hermes.errors import HermesError


def read_entries(path: Path, name: str) -> list[Any]:
    """The [[name]] entries of a file, unchecked. Raises HermesError where it has anything else."""
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HermesError(f"{path}: not TOML: {error}") from None
    entries = value.get(name, [])
    if set(value) - {name} or not isinstance(entries, list):
        raise HermesError(f"{path}: expected [[{name}]] entries only")
    return entries
