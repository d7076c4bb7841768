"""An adapter that a LoRA run starts from, of a run of hermes, PEFT or mlx-lm."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hermes.errors import CheckpointError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.numerics.lora import find_adapted_paths
from hermes.numerics.merging import DOWN, MAGNITUDE, TOKEN_ROWS, UP, Adapter
from hermes.recipe import LORA_TARGETS, Lora
from hermes.spec import ModelSpec

__all__ = ["InitialAdapter", "make_initial_adapter"]


@dataclass(frozen=True)
class InitialAdapter:
    """What a run starts from beside the model.

    lora: the recipe that trains it further; of matrices with different ranks and factors the
    largest rank, and one factor. notes: sentences for the user.
    """

    path: Path
    adapter: Adapter
    lora: Lora
    notes: tuple[str, ...] = ()

    def change_first_values(self, fresh: Tensors, token_ids: tuple[int, ...]) -> Tensors:
        """The first values of the adapters of a run: its own in place of fresh ones.

        fresh: those of a run that starts from the model alone; token_ids: of the rows among them.
        The model computes what it does with the adapter: a matrix of a smaller rank keeps fresh
        rows of A, whose columns of B are 0, and where its factor is another, B has the quotient.
        """

        def make(name: str) -> Array:
            first = np.array(fresh[name], np.float32)
            if name.endswith(f".{TOKEN_ROWS}"):
                path = name.removesuffix(f".{TOKEN_ROWS}")
                ids = self.adapter.token_ids.get(path, ())
                if ids:
                    places = [token_ids.index(i) for i in ids]
                    first[places] = self.adapter.tensors[name].astype(np.float32)
                return first
            own = self.adapter.tensors[name]
            if name.endswith(f".{DOWN}"):
                first[: len(own)] = own.astype(np.float32)
            elif name.endswith(f".{UP}"):
                quotient = self.adapter.scales[name.removesuffix(f".{UP}")] / self.lora.scale
                first[:, : own.shape[1]] = (own.astype(np.float64) * quotient).astype(np.float32)
            else:
                first = own.astype(np.float32)
            return first

        return LazyTensors(fresh, make)


def make_initial_adapter(
    path: Path, adapter: Adapter, spec: ModelSpec, *, dropout: float = 0.0
) -> InitialAdapter:
    """Make what a run starts from of an adapter, or refuse what a run cannot train further.

    Raises CheckpointError: a run trains the same matrices in every layer, with low-rank updates,
    and rows of tokens.
    """
    _require_trainable(path, adapter, spec)
    ranks = {each: len(adapter.tensors[f"{each}.{DOWN}"]) for each in adapter.scales}
    found = {each.rpartition(".")[2] for each in ranks}
    rank, scale = max(ranks.values()), next(iter(adapter.scales.values()))
    lora = Lora(
        rank,
        scale * rank,
        dropout,
        tuple(name for name in LORA_TARGETS if name in found),
        dora=f"{next(iter(ranks))}.{MAGNITUDE}" in adapter.tensors,
        token_ids=tuple(sorted({i for ids in adapter.token_ids.values() for i in ids})),
    )
    _require_every_layer(path, spec, lora, ranks)
    notes = [f"training continues from the adapter of {path}: rank {rank}, alpha {lora.alpha:g}"]
    if len(set(ranks.values())) > 1:
        notes.append(
            f"its ranks go from {min(ranks.values())} to {rank}; all matrices get {rank}, which "
            "changes nothing at first"
        )
    return InitialAdapter(path, adapter, lora, tuple(notes))


def _require_trainable(path: Path, adapter: Adapter, spec: ModelSpec) -> None:
    way_out = f"merge it first: hermes merge --adapter {path}"
    whole = [
        name
        for name in adapter.tensors
        if not name.endswith((f".{DOWN}", f".{UP}", f".{MAGNITUDE}", f".{TOKEN_ROWS}"))
    ]
    outside = [each for each in adapter.scales if ".layers." not in each]
    if outside:
        raise CheckpointError(
            f"adapter {path} has an update of {outside[0]!r}, and a run adapts matrices of layers "
            f"and whole rows of tokens; {way_out}"
        )
    if whole:
        raise CheckpointError(
            f"adapter {path} replaces {whole[0]!r} whole, and a run of adapters trains updates of "
            f"low rank and rows of tokens; {way_out}"
        )
    if not adapter.scales:
        raise CheckpointError(f"adapter {path} has no update of a matrix to train; {way_out}")
    if not adapter.ties_head or len(set(adapter.token_ids.values())) > 1:
        raise CheckpointError(
            f"adapter {path} changes rows of the embeddings and others of the head, and a run "
            f"trains the same tokens in both; {way_out}"
        )
    untied = not spec.embeddings.tie_weights
    if untied and len(adapter.token_ids) == 1:
        raise CheckpointError(
            f"adapter {path} changes rows of {next(iter(adapter.token_ids))!r} alone, and a run "
            f"trains those of the embeddings and of the head; {way_out}"
        )


def _require_every_layer(path: Path, spec: ModelSpec, lora: Lora, ranks: Mapping[str, int]) -> None:
    missing = [each for each in find_adapted_paths(spec, lora) if each not in ranks]
    if missing:
        raise CheckpointError(
            f"adapter {path} has no update of {missing[0]!r}, and a run trains the same matrices "
            f"in every layer; merge it first: hermes merge --adapter {path}"
        )
