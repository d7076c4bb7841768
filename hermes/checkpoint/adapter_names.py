"""What the files of an adapter may name: the tensors of the model that it was trained on.

That model is one of ours, or the same in the files of another tool, where matrices may be fused,
permuted and renamed; `hermes.interop.class_adapters` turns what belongs to those into ours.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hermes.checkpoint.weights import EMBEDDING, HEAD
from hermes.numerics.merging import (
    DOWN,
    EMBEDDING_DOWN,
    EMBEDDING_UP,
    MAGNITUDE,
    TOKEN_ROWS,
    UP,
)
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec

__all__ = [
    "AdapterNames",
    "list_adapted_modules",
    "name_own_tensors",
    "split_adapter_name",
    "strip_holders",
]

# What an adapter has of a module, at the end of a tensor's name.
_ENDS = (DOWN, UP, EMBEDDING_DOWN, EMBEDDING_UP, MAGNITUDE, TOKEN_ROWS, "weight", "bias")

# Modules that hold the whole model, by which classes differ from their base classes.
_HOLDERS = ("model", "transformer", "gpt_neox", "biogpt", "language_model", "decoder")


@dataclass(frozen=True)
class AdapterNames:
    """The tensors of a model, by the names that its adapters have for them.

    shapes: as stored. embedding, head: the modules with a row for each token. tied: whether the two
    have one matrix. transposed: the matrices stored as (in, out), whose adapters are as of others.
    """

    shapes: Mapping[str, tuple[int, ...]]
    embedding: str
    head: str
    tied: bool
    transposed: Collection[str] = ()

    def find_matrix(self, path: str) -> tuple[int, int] | None:
        """The shape (out, in) of PATH.weight; None where there is no such matrix."""
        shape = self.shapes.get(f"{path}.weight", ())
        if len(shape) != 2:
            return None
        return (shape[1], shape[0]) if f"{path}.weight" in self.transposed else (shape[0], shape[1])


def name_own_tensors(spec: ModelSpec) -> AdapterNames:
    """Name the tensors of a model as hermes does."""
    shapes = {name: tensor.shape for name, tensor in list_parameters(spec).items()}
    shapes.setdefault(HEAD, shapes[EMBEDDING])  # of a tied head, which PEFT can adapt apart
    embedding, head = (name.removesuffix(".weight") for name in (EMBEDDING, HEAD))
    return AdapterNames(shapes, embedding, head, spec.embeddings.tie_weights)


def strip_holders(name: str) -> str:
    """Remove the modules that hold the model from the front of a name."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _HOLDERS:
        parts.pop(0)
    return ".".join(parts)


def split_adapter_name(name: str) -> tuple[str, str]:
    """Split the name of an adapter's tensor into its module and what it is of that."""
    for end in _ENDS:
        if name.endswith(f".{end}"):
            return name[: -len(end) - 1], end
    path, _, end = name.rpartition(".")
    return path, end


def list_adapted_modules(model: AdapterNames) -> dict[str, str]:
    """List the modules of a model by their names without the modules that hold all of it."""
    paths = (name.rpartition(".")[0] for name in model.shapes)
    return {strip_holders(path): path for path in paths}
