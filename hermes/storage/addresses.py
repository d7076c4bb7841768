"""Names that are addresses, such as s3://BUCKET/FILE, and not files of this machine."""

import os
import re
from pathlib import Path

from hermes.errors import HermesError

__all__ = ["ADDRESS", "expand_home", "find_address", "require_local"]

# A Path collapses two slashes to one, so one is enough.
ADDRESS = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/+(?P<rest>.+)", re.DOTALL)


def find_address(path: str | os.PathLike[str]) -> str:
    """The address that a name is, with both of its slashes; "" for a name of this machine."""
    found = ADDRESS.fullmatch(os.fspath(path))
    return f"{found['protocol']}://{found['rest']}" if found else ""


def expand_home(name: str) -> str:
    """A name with the user's folder in place of a leading ~; as it is where such a file is there.

    A shell does so only at the beginning of a word, and so not in --data=~/text or code=~/src:0.3.
    """
    return name if os.path.lexists(name) else os.path.expanduser(name)


def require_local(path: Path, what: str = "files") -> None:
    """Refuse an address where something is to be written. Raises HermesError.

    what: is written there, in the plural. A folder or file of such a name that is there is taken.
    """
    address = find_address(path)
    if address and not path.exists():
        raise HermesError(
            f"{address} is an address, and {what} are written to this machine or to what is "
            "mounted on it; name a path there"
        )
