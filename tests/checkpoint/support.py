"""A tiny model's run, and disks that count, refuse, die or are pulled from the wall."""

import json
import os
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from hermes.checkpoint import (
    Companions,
    Disk,
    Operation,
    Progress,
    save,
)
from hermes.checkpoint.manifest import MANIFEST
from hermes.interface import TrainState
from hermes.numerics.params import list_parameters
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec
from hermes.storage.safetensors import compute_file_size, describe_tensors, encode_tensors

SPEC = ModelSpec(
    blocks=(BlockSpec(AttentionSpec(num_heads=2), FfnSpec(hidden_dim=6)),),
    name="tiny",
    vocab_size=12,
    max_seq_len=16,
    hidden_size=4,
    num_layers=1,
)
TIED = ModelSpec(
    blocks=SPEC.blocks,
    vocab_size=12,
    max_seq_len=16,
    hidden_size=4,
    num_layers=1,
    embeddings=EmbeddingsSpec(tie_weights=True),
)
TOKENIZER = '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2}]}'
COMPANIONS = Companions(tokenizer_json=TOKENIZER, tokenizer_config={"eos_token": "b"})


def numbers(spec, seed, dtype=np.float32):
    """Tensors of a model, other ones for every seed, none of them zero."""
    random = np.random.default_rng(seed)
    return {
        name: (random.standard_normal(tensor.shape) + 3).astype(dtype)
        for name, tensor in list_parameters(spec).items()
    }


def state_at(step, spec=SPEC, dtype=np.float32):
    """The state of the tiny run after `step` updates."""
    first, second, third = (numbers(spec, 3 * step + i, dtype) for i in range(3))
    return TrainState(first, second, third, step)


def progress_at(step, run="run-a", recipe=None, **changes):
    recipe = recipe or Recipe()
    return Progress(run=run, step=step, recipe=recipe, tokens=10 * step, sample=step, **changes)


def save_at(run, step, *, run_id="run-a", disk=None, workers=1, **changes):
    progress = progress_at(step, run_id, **changes)
    state = state_at(step)
    return save(
        run,
        state,
        spec=SPEC,
        progress=progress,
        companions=COMPANIONS,
        workers=workers,
        disk=disk,
    )


def require_equal(checkpoint, step, spec=SPEC):
    """The checkpoint holds the tiny run's state at `step`, to the bit."""
    there, here = checkpoint.state, state_at(step, spec)
    assert there.step == step
    for kind in ("params", "exp_avg", "exp_avg_sq"):
        assert set(getattr(there, kind)) == set(list_parameters(spec))
        for name, tensor in getattr(here, kind).items():
            read = getattr(there, kind)[name]
            assert read.dtype == tensor.dtype
            assert read.tobytes() == tensor.tobytes(), name


def quick_folder():
    """A temporary folder in memory where there is one: what is tested is order, not the drive."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


@dataclass
class Log:
    """Keeps every operation, its bytes copied."""

    operations: list[Operation] = field(default_factory=list)

    def __call__(self, operation):
        data = bytes(operation.data)
        self.operations.append(Operation(operation.kind, operation.path, operation.target, data))


def logged_disk():
    log = Log()
    return Disk(log), log.operations


def write_tensors(path, tensors):
    kinds = describe_tensors(tensors)
    data = b"".join(bytes(chunk) for chunk in encode_tensors(tensors, kinds))
    assert len(data) == compute_file_size(kinds)
    path.write_bytes(data)
    return path


def equal_tensors(left, right):
    assert set(left) == set(right)
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].shape == right[name].shape
        assert left[name].tobytes() == right[name].tobytes()


def resealed(path, **changes):
    """Give the manifest other values, and the right hash for them."""
    body = json.loads((path / MANIFEST).read_bytes())
    del body["sha256"]
    text = json.dumps(body | changes, indent=2)[: -len("\n}")] + ",\n"
    digest = sha256(text.encode()).hexdigest()
    (path / MANIFEST).write_text(f'{text}  "sha256": "{digest}"\n}}\n')
