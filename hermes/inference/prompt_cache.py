"""Prompt caches in files: the keys and values of a prompt, for a later call and another backend.

A file is of safetensors: `layers.N.keys` and `layers.N.values` as `KeepsRows` gives them, in the
precision of the model, `tokens`, `capacity`, and `identity`, a JSON text that names the model and
holds the SHA-256 of the rest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hermes.errors import CheckpointError, NonFinite, StorageError
from hermes.inference.engine import Engine
from hermes.inference.prefixes import RowState
from hermes.inference.request import Generation, Listener, Request
from hermes.interface import Tensors
from hermes.mal import dumps
from hermes.spec import ModelSpec
from hermes.storage.durable import write_atomically
from hermes.storage.safetensors import TensorFile, describe_tensors, encode_tensors
from hermes.storage.strict_json import parse_json

__all__ = ["CacheKey", "PromptCache", "hash_weights", "run_with_cache"]

FORMAT = 1
SAMPLE = 1 << 16
DTYPES: Mapping[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
OWN = ("tokens", "capacity", "identity")


@dataclass(frozen=True)
class CacheKey:
    """Whose prompts a file may have. model: the hash of `hash_weights`. precision: of the cache."""

    model: str
    precision: str


def hash_weights(spec: ModelSpec, params: Tensors) -> str:
    """A hash that differs where any number of a model differs, at the speed of reading them."""
    text = dumps(replace(spec, name="model", description=""))
    digest = hashlib.sha256(text.encode())
    for name in sorted(params):
        flat = np.ascontiguousarray(params[name]).reshape(-1)
        data = flat.view(np.uint8)
        whole = data[: len(data) // 8 * 8].view(np.uint64)
        # Sums see any one change; SHA-256 of all would take longer than reading a long prompt.
        sums = [int(whole.sum(dtype=np.uint64)), int(np.bitwise_xor.reduce(whole))]
        digest.update(f"{name} {flat.dtype} {flat.size} {sums}".encode())
        digest.update(data[:SAMPLE].tobytes() + data[-SAMPLE:].tobytes())
    return digest.hexdigest()


class PromptCache:
    """A file with the cache of one prompt."""

    def __init__(self, path: str | Path, key: CacheKey):
        self.path, self._key = Path(path), key

    def load(self, engine: Engine) -> bool:
        """Give the file's prompt to a row of an engine, if there is a file. -> whether it did

        Raises as `read`.
        """
        state = self.read()
        return state is not None and engine.restore_row(state)

    def read(self) -> RowState | None:
        """What the file has; None where there is none.

        Raises CheckpointError for a file that is damaged, or of another model or precision.
        """
        return self._read() if self.path.exists() else None

    def save(self, engine: Engine, tokens: list[int]) -> bool:
        """Write what an engine has of a prompt, unless that is nothing. -> whether it did

        Raises StorageError.
        """
        state = engine.copy_row(tokens)
        if state is None:
            return False
        dtype = DTYPES.get(self._key.precision)
        tensors: dict[str, NDArray[Any]] = {
            name: part if dtype is None else part.astype(dtype)
            for name, part in state.tensors.items()
        }
        tensors["tokens"] = np.array(state.tokens, np.int32)
        tensors["capacity"] = np.array([state.capacity], np.int64)
        identity = {
            "format": FORMAT,
            "model": self._key.model,
            "precision": self._key.precision,
            "sha256": _hash_tensors(tensors),
        }
        text = json.dumps(identity, sort_keys=True).encode()
        tensors["identity"] = np.frombuffer(text, np.uint8)
        try:
            data = b"".join(encode_tensors(tensors, describe_tensors(tensors)))
        except NonFinite as error:
            raise StorageError(f"{self.path}: {error}") from None
        write_atomically(self.path, data)
        return True

    def _read(self) -> RowState:
        advice = "delete it, or name another file"
        try:
            file = TensorFile(self.path)
            tensors = {name: file[name] for name in file}
            identity: Any = parse_json(bytes(tensors.pop("identity")), str(self.path))
            tokens, capacity = tensors["tokens"], tensors["capacity"]
        except (CheckpointError, KeyError) as error:
            what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise CheckpointError(f"{self.path} is no prompt cache: {what}; {advice}") from None
        if not isinstance(identity, dict) or identity.get("format") != FORMAT:
            raise CheckpointError(f"{self.path} is a prompt cache of another version; {advice}")
        if identity.get("sha256") != _hash_tensors(tensors):
            raise CheckpointError(f"{self.path} is damaged: its numbers have changed; {advice}")
        if identity.get("model") != self._key.model:
            raise CheckpointError(f"{self.path} is the prompt cache of another model; {advice}")
        if identity.get("precision") != self._key.precision:
            raise CheckpointError(
                f"{self.path} is a prompt cache in {identity.get('precision')}, and the model is "
                f"in {self._key.precision}; give the same --precision, or {advice}"
            )
        rest = {
            name: part if part.dtype == np.float64 else part.astype(np.float32)
            for name, part in tensors.items()
            if name not in OWN
        }
        return RowState(tuple(map(int, tokens)), int(capacity[0]), rest)


def run_with_cache(
    cache: PromptCache, engine: Engine, request: Request, listener: Listener | None = None
) -> Generation:
    """Generate a text, its prompt's beginning from a file, which then has all of the prompt.

    Raises HermesError, as where the file is not the model's.
    """
    cache.load(engine)
    generation = engine.submit(request, listener)
    while not (generation.choices or generation.is_done):
        engine.step()
    # Before the text goes on: a window forgets the prompt's end.
    if generation.error is None and generation.num_reused < len(request.prompt) - 1:
        cache.save(engine, list(request.prompt))
    engine.run()
    if generation.error is not None:
        raise generation.error
    return generation


def _hash_tensors(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        part = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {part.dtype} {part.shape}".encode())
        digest.update(part.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
