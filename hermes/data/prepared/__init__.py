"""Text prepared for training: token shards with an index of documents and a manifest."""

from hermes.data.prepared.manifest import is_prepared, open_prepared
from hermes.data.prepared.plan import SHARD_SIZE, Part, PreparationOptions
from hermes.data.prepared.preparation import PrepareResult, merge_parts, prepare_tokens
from hermes.data.prepared.verifying import verify_prepared

__all__ = [
    "SHARD_SIZE",
    "Part",
    "PreparationOptions",
    "PrepareResult",
    "is_prepared",
    "merge_parts",
    "open_prepared",
    "prepare_tokens",
    "verify_prepared",
]
