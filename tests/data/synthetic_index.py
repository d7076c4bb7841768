"""A folder of prepared tokens with a real index of documents, and holes in place of ids."""

import numpy as np

from hermes.data.document_index import INDEX
from hermes.data.prepared.manifest import Shard, make_manifest

NO_HASH = "0" * 64  # nobody looks


def write_synthetic_index(folder, documents, shards):
    """A folder of prepared tokens, 300 a document: a real index, and holes for ids."""
    folder.mkdir()
    each, rows = documents // shards, np.zeros(documents // shards, INDEX)
    rows["start"] = np.arange(each) * 300
    described = []
    for number in range(shards):
        rows["line"] = np.arange(each) + number * each + 1
        (folder / f"00000-{number:05}.idx").write_bytes(rows.tobytes())
        with open(folder / f"00000-{number:05}.bin", "wb") as file:
            file.truncate(each * 300 * 2)
        described.append(Shard(f"00000-{number:05}", each * 300, each, 0, 0, *[NO_HASH] * 3))
    plan = {"name": "a.jsonl", "kind": "jsonl", "size": 0}
    source = {"name": "a.jsonl", "size": 0, "sha256": NO_HASH, "of": "a.jsonl"}
    facts = {
        **{"fingerprint": NO_HASH, "dtype": "<u2", "text_bytes": 0, "largest": 0},
        **{"tokens": documents * 300, "documents": documents},
        "tokenizer": {"fingerprint": NO_HASH, "eos_id": 0, "beginning": []},
        "options": {"documents": "file"},
        **{"plan": [plan], "sources": [source]},
    }
    (folder / "manifest.json").write_bytes(make_manifest(facts, described))
