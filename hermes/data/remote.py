"""Data at addresses such as s3://BUCKET/FILE or https://HOST/FILE, opened through fsspec."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from hermes.errors import DataError, HermesError, StorageError, explain_os_error
from hermes.storage.addresses import ADDRESS, expand_home
from hermes.storage.hub_log import hide_retries

__all__ = [
    "is_remote",
    "list_remote",
    "locate_source",
    "open_filesystem",
    "open_remote",
    "refuse_secrets",
    "restore_address",
]

AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]+:/+(?P<user>[^/?#]*@)?(?P<host>[^/?#]*)")
# Parameters by which an address proves who may read it, as of signed addresses of object stores.
SIGNING = re.compile(
    r"[?&;](x-(amz|goog)-(signature|credential|security-token)|(aws|google)accesskeyid|signature|sig"
    r"|(access_?|auth_?|api_?|private_?|secret_?)?(token|key)|password|passwd|secret|auth)=",
    re.IGNORECASE,
)


def is_remote(path: str | Path) -> bool:
    """Whether a name is an address and not a local file."""
    return ADDRESS.fullmatch(str(path)) is not None


def locate_source(name: str) -> str:
    """A source as run.yaml has it: a file's absolute path, an address or '-' as it is.

    Raises DataError as `refuse_secrets`.
    """
    refuse_secrets(name)
    name = expand_home(name)
    return name if name == "-" or is_remote(name) else os.path.abspath(name)


def refuse_secrets(name: str | Path) -> None:
    """Raise DataError for an address with a password, token or signature in it.

    A run records where its data is, and messages say it; what opens it is no part of that.
    """
    text = str(name)
    found = AUTHORITY.match(text)
    if found is None or not is_remote(text):
        return
    user = found["user"] or ""
    protocol = text.partition(":")[0]
    if ":" in user or (user and protocol in ("http", "https")) or SIGNING.search(text):
        raise DataError(
            f"the address of a file at {protocol}://{found['host']} has a password, token or "
            "signature in it, which a run would record and messages would show; give it where "
            "fsspec finds it, such as the environment, or download the file"
        )


def restore_address(path: str | Path) -> tuple[str, str]:
    """The protocol of an address, and the whole address with both of its slashes."""
    found = ADDRESS.fullmatch(str(path))
    assert found is not None, "asked only for what is_remote"
    return found["protocol"], f"{found['protocol']}://{found['rest']}"


@contextmanager
def open_filesystem(path: str | Path) -> Iterator[tuple[Any, str]]:
    """Yield fsspec's file system of an address, and the address. Raises HermesError."""
    protocol, address = restore_address(path)
    try:
        import fsspec
    except ModuleNotFoundError:
        raise HermesError(
            f"{address}: reading it needs fsspec; pip install 'hermes-llm[remote]'"
        ) from None
    if protocol == "hf":
        hide_retries()
    try:
        yield fsspec.core.url_to_fs(address)[0], address
    except FileNotFoundError:
        silent = ", or no answer from its host" if protocol in ("http", "https") else ""
        raise DataError(f"{address}: no such file{silent}; check the name") from None
    except (ImportError, ValueError) as error:
        raise HermesError(f"{address}: fsspec cannot open {protocol}:// ({error})") from None
    except OSError as error:
        raise StorageError(f"cannot read {address}: {explain_os_error(error)}") from error
    except HermesError:
        raise
    except Exception as error:  # each protocol's library has classes of its own
        raise StorageError(f"cannot read {address}: {type(error).__name__}: {error}") from error


def list_remote(path: str | Path) -> list[Path]:
    """List the files that an address or its pattern stands for, by name. Raises HermesError."""
    protocol, address = restore_address(path)
    if "*" not in address:
        return [Path(path)]
    with open_filesystem(path) as (files, _):
        found = sorted(files.glob(address))
    if not found:
        raise DataError(f"{address}: the pattern matches no file; check the folder and the ending")
    return [
        Path(str(name) if is_remote(str(name)) else f"{protocol}://{str(name).lstrip('/')}")
        for name in found
    ]


@contextmanager
def open_remote(path: str | Path) -> Iterator[BinaryIO]:
    """Yield the file at an address, for reading. Raises HermesError, StorageError."""
    with open_filesystem(path) as (files, address), files.open(address, "rb") as file:
        yield cast(BinaryIO, file)
