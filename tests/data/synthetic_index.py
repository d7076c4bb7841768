"""A folder of prepared tokens with a real index of documents, and holes in place of ids."""

import numpy as np

from hermes.data.document_index import INDEX
from hermes.data.prepared.manifest import Shard, make_manifest


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
        described.append(Shard(f"00000-{number:05}", each * 300, each, 0, 0, "", "", ""))
    source = {"name": "a.jsonl", "kind": "jsonl", "size": 0}
    facts = {"fingerprint": "f", "dtype": "<u2", "tokens": documents * 300, "documents": documents,
             "text_bytes": 0, "largest": 0, "options": {"documents": "file"}, "plan": [source],
             "sources": [source]}  # fmt: skip
    (folder / "manifest.json").write_bytes(make_manifest(facts, described))
