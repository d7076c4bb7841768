"""The cache of encoded examples: records that were encoded once are not encoded again.

A file of the cache belongs to a key, a hash of all that decides examples: the records, the
tokenizer, the template with its arguments, what is trained on, and the code that encodes. Nothing
in it is looked up by name or time, so what it has is never of something else.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.chat_templates.example import Example
from hermes.data.prepared.cache import can_write_cache, find_cache_folder, wait_for_lock
from hermes.distributed.agreement import all_or_none
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.errors import StorageError
from hermes.storage.durable import write_atomically
from hermes.storage.plain_json import load_json

__all__ = ["EncodedRecords", "ExampleCache"]

# Bytes of records. Of 1.8 MB, encoding took 1.8 to 3.6 seconds of processor time and reading 0.05
# (benchmarks/chat_templates.py --rounds 2 --messages 16000, Llama 3's template and Qwen3's).
CACHED_FROM = 2_000_000
EXAMPLES = "examples.npz"


@dataclass(frozen=True)
class EncodedRecords:
    """The examples of records. records: the number of each one's record. unread: as of ChatEncoder.

    facts: further numbers, such as how many were left out.
    """

    examples: Sequence[Example]
    records: Sequence[int]
    unread: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExampleCache:
    """Where encoded examples are kept.

    folder: None for the user's cache, and not for few records. tell: given lines for the user.
    """

    folder: Path | None = None
    tell: Callable[[str], None] = lambda line: None

    def open(
        self,
        key: str | None,
        size: int,
        places: Sequence[str],
        encode: Callable[[], EncodedRecords],
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> EncodedRecords:
        """Read the examples of a key, or encode and keep them.

        key: None where nothing may be kept. size: bytes of all records. places: of each record, for
        error messages. Of several ranks one of each machine encodes, and the others there read.
        Raises HermesError of every kind, on all ranks.
        """
        if key is None or (self.folder is None and size < CACHED_FROM):
            return encode()
        cache = self.folder or find_cache_folder()

        def make() -> EncodedRecords:
            return self._read_or_make(cache / key, places, encode)

        rank_info = process_group.rank_info
        if rank_info.world_size == 1:
            return make()
        if len({*process_group.all_gather_text(key)}) > 1:
            return encode()  # ranks with other data are refused later, by what differs
        is_first = rank_info.local_rank == 0
        made = all_or_none(process_group, lambda: make() if is_first else None)
        if made is None:
            made = _read_examples(cache / key / EXAMPLES, places)
        return encode() if made is None else made

    def _read_or_make(
        self, folder: Path, places: Sequence[str], encode: Callable[[], EncodedRecords]
    ) -> EncodedRecords:
        if self.folder is None and not can_write_cache(folder.parent):
            self.tell(
                f"{folder.parent} cannot be written to or locked, so records are encoded at each "
                "start"
            )
            return encode()
        with wait_for_lock(folder, self.tell, "encodes the same records"):
            found = _read_examples(folder / EXAMPLES, places)
            if found is not None:
                return found
            made = encode()
            try:
                write_atomically(folder / EXAMPLES, _pack_examples(made))
            except StorageError as error:
                self.tell(f"encoded records are not kept: {error}")
            return made


def _pack_examples(encoded: EncodedRecords) -> bytes:
    examples = encoded.examples
    about = {"unread": dict(encoded.unread), "facts": dict(encoded.facts)}
    none = np.zeros(0)
    archive = io.BytesIO()
    np.savez(
        archive,
        lengths=np.array([len(one) for one in examples], np.int64),
        parts=np.array([one.part for one in examples], np.int64),
        records=np.array(encoded.records, np.int64),
        ids=np.concatenate([none.astype(np.int32), *(one.ids for one in examples)]),
        mask=np.concatenate([none.astype(bool), *(one.loss_mask for one in examples)]),
        is_weighted=np.array([one.weights is not None for one in examples], bool),
        weights=np.concatenate(
            [none.astype(np.float32), *(o.weights for o in examples if o.weights is not None)]
        ),
        about=np.frombuffer(json.dumps(about).encode(), np.uint8),
    )
    return archive.getvalue()


def _read_examples(path: Path, places: Sequence[str]) -> EncodedRecords | None:
    """Read kept examples; None where there are none, or none that are whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        about = load_json(found["about"].tobytes())
        examples = _split_examples(found, places)
        return EncodedRecords(examples, found["records"].tolist(), about["unread"], about["facts"])
    except Exception:  # a torn archive raises whatever its part does; it is made anew
        return None


def _split_examples(found: Mapping[str, NDArray[Any]], places: Sequence[str]) -> list[Example]:
    ends = np.cumsum(found["lengths"])
    weighted = found["is_weighted"]
    own_ends = iter(np.cumsum(found["lengths"][weighted]).tolist())
    examples, begin, own_begin = [], 0, 0
    rows = zip(ends.tolist(), found["parts"], found["records"], weighted, strict=True)
    for end, part, record, has_weights in rows:
        weights = None
        if has_weights:
            own_end = next(own_ends)
            weights, own_begin = found["weights"][own_begin:own_end], own_end
        ids, mask = found["ids"][begin:end], found["mask"][begin:end]
        examples.append(Example(ids, mask, places[record], int(part), weights))
        begin = end
    return examples
