"""The reference's log-probabilities: what the model before training gives each completion.

They are computed once, with the kernels, batch shapes and padding of the run's first epoch, so that
the first loss is exactly that of two equal models, and kept in a file.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hermes.data import Cursor
from hermes.data.dataset import UpdateLayout
from hermes.data.preference_dataset import PreferenceDataset
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.errors import CheckpointError, Interrupted, NonFinite, StorageError, explain_os_error
from hermes.interface import Model, Tensors
from hermes.recipe import Recipe
from hermes.stages import report_stage
from hermes.storage.durable import write_atomically
from hermes.storage.plain_json import load_json

__all__ = ["Reference", "compute_reference", "hash_weights"]

# Another template also makes other data of the same file, so it is looked at first.
NAMES = {"weights": "other weights", "template": "another chat template", "data": "other data"}


@dataclass(frozen=True)
class Reference:
    """The log-probabilities of a data set's pairs, and what they were computed from.

    logprobs: (N, 2), of the chosen and the rejected completion. weights, data, template: SHA-256 of
    what determines them. how: backend, precision and shapes, which affect rounding alone.
    """

    logprobs: NDArray[np.float64]
    weights: str
    data: str
    template: str
    how: Mapping[str, str | int]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all. Raises StorageError."""
        about = {"weights": self.weights, "data": self.data, "template": self.template}
        text = json.dumps(about | {"how": dict(self.how)}).encode()
        archive = io.BytesIO()
        np.savez(archive, logprobs=self.logprobs, about=np.frombuffer(text, np.uint8))
        write_atomically(path, archive.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read one. Raises CheckpointError, StorageError."""
        try:
            with np.load(path, allow_pickle=False) as file:
                about = load_json(file["about"].tobytes())
                logprobs = np.asarray(file["logprobs"], np.float64)
            hashes = {name: str(about[name]) for name in NAMES}
            return cls(logprobs, **hashes, how=dict(about["how"]))
        except OSError as error:
            if error.errno is None:  # NumPy's, of a file that is none of its own
                raise CheckpointError(f"{path} is no reference cache; remove it") from None
            raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
        except Exception as error:  # a torn archive raises whatever its part does
            # NumPy's own sentence advises to load it unsafely.
            raise CheckpointError(f"{path} is no reference cache, or torn; remove it") from error

    def require(
        self, path: Path, *, weights: str, data: str, template: str, goes_on: bool = False
    ) -> None:
        """Refuse a cache of another reference. goes_on: it is a resumed run's own.

        Raises CheckpointError.
        """
        advice = "remove it, or name another with --reference-cache"
        if goes_on:
            advice = (
                "a run is resumed with the data, the template and the reference that it began "
                "with; give these, or choose another --output for a new one"
            )
        here = {"weights": weights, "data": data, "template": template}
        for name, words in NAMES.items():
            there = getattr(self, name)
            if there != here[name]:
                raise CheckpointError(
                    f"reference cache {path} is of {words} ({name} {there[:12]} there, "
                    f"{here[name][:12]} here); {advice}"
                )


def hash_weights(params: Tensors) -> str:
    """SHA-256 over every tensor's name, shape and float32 values."""
    digest = hashlib.sha256()
    for done, name in enumerate(sorted(params)):
        report_stage("hashing the reference's weights", done, len(params))
        tensor = np.ascontiguousarray(params[name], np.float32)
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(tensor.data)
    report_stage("")
    return digest.hexdigest()


def compute_reference(
    model: Model,
    data: PreferenceDataset,
    recipe: Recipe,
    *,
    process_group: ProcessGroup = SINGLE_PROCESS,
    stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float64]:
    """Each pair's log-probabilities under `model`, in the batches of the first epoch. -> (N, 2).

    Each rank computes the pairs that it trains on in that epoch. Raises Interrupted where any rank
    was asked to stop, and NonFinite.
    """
    found = np.zeros_like(data.reference)
    rank_info, half = process_group.rank_info, recipe.batch_size
    per_update = half * recipe.grad_accum * rank_info.world_size
    size, total, done = len(data.train), len(found), 0
    held_out = data.select_held_out()
    parts = [
        (data.select_pairs(Cursor(0, start), min(per_update, size - start)), recipe.grad_accum)
        for start in range(0, size, per_update)
    ]
    step = half * rank_info.world_size
    parts += [(held_out[at : at + step], 1) for at in range(0, len(held_out), step)]
    for taken, accum in parts:
        grid = UpdateLayout.build(len(taken), half, accum, rank_info.rank, rank_info.world_size)
        batch = data.make_batch(taken, grid)
        for a in range(accum):
            if process_group.all_reduce_max(float(stop())):
                raise Interrupted("stopped while the reference was computed; nothing was saved")
            if rank_info.world_size == 1 and not grid.real[a].any():
                continue  # of several processes all make as many passes
            sums = np.asarray(model.row_logprobs(batch.tokens[a], batch.targets[a]), np.float64)
            here = taken[grid.rows[a][grid.real[a]]]
            found[here, 0] = sums[:half][grid.real[a]]
            found[here, 1] = sums[half:][grid.real[a]]
        done += len(taken)
        report_stage("computing the reference, pairs", done, total)
    report_stage("")
    found = np.reshape(process_group.all_reduce_sum([*found.flat]), found.shape)
    if not np.isfinite(found).all():
        raise NonFinite(
            "the reference's log-probabilities are not numbers; its weights are damaged"
        )
    return found
