"""What a server has read, kept in a folder from one start to the next."""

import hashlib
from pathlib import Path

import numpy as np

from hermes.errors import HermesError, StorageError, explain_os_error
from hermes.inference.engine import Engine
from hermes.inference.prompt_cache import CacheKey, PromptCache

__all__ = ["load_rows", "save_rows"]

PATTERN = "prompt-*.safetensors"


def load_rows(folder: Path, key: CacheKey, engine: Engine) -> int:
    """Give an engine the prompts of a folder, those used last first. -> how many

    Raises CheckpointError for a file that is damaged or of another model, StorageError.
    """
    if not folder.exists():
        return 0
    if not folder.is_dir():
        raise StorageError(f"--prompt-cache {folder} is a file; name a folder for a server")
    newest = sorted(folder.glob(PATTERN), key=lambda path: -path.stat().st_mtime)
    return sum(PromptCache(path, key).load(engine) for path in newest[: engine.num_rows])


def save_rows(folder: Path, key: CacheKey, engine: Engine) -> int:
    """Write what an engine has read, a file for each row, in place of what was there. -> how many

    Raises StorageError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {explain_os_error(error)}") from error
    written = set()
    for tokens in reversed(engine.list_rows()):  # the one used last is the newest file
        name = hashlib.sha256(np.array(tokens, np.int64).tobytes()).hexdigest()[:16]
        path = folder / PATTERN.replace("*", name)
        if PromptCache(path, key).save(engine, list(tokens)):
            written.add(path)
    for path in set(folder.glob(PATTERN)) - written:
        try:
            path.unlink()
        except OSError as error:
            raise HermesError(f"cannot delete {path}: {explain_os_error(error)}") from error
    return len(written)
