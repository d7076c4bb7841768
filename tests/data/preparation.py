"""How the tests of prepared tokens prepare them, and what they compare."""

import hashlib

from hermes.data.prepared import PreparationOptions

SMALL = PreparationOptions(shard_size=2000)


def list_bytes(folder):
    """The hash of every file but the one that says when and how it was made."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "provenance.json"
    }
