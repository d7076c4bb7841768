"""Names of tensors in other tools' files, by their layouts, converted in both directions."""

import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from hermes.checkpoint import TensorInfo
from hermes.checkpoint.adapter_names import strip_holders
from hermes.checkpoint.weights import strip_wrappers
from hermes.errors import CheckpointError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.huggingface.families import FAMILIES
from hermes.interop.stored_tensor import StoredTensor
from hermes.interop.tensor_layout import make_layout
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec

__all__ = ["TensorSource", "pack", "unpack"]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FLOATS = ("F64", "F32", "F16", "BF16")


class TensorSource(Protocol):
    """Tensors by their names in a file, each read on access; infos: their dtypes and shapes."""

    infos: dict[str, TensorInfo]

    def __getitem__(self, name: str) -> Array:
        """Read one tensor."""
        ...


# Buffers in older files, which are not parameters: causal masks and RoPE frequencies.
_BUFFERS = re.compile(
    r".*\battn(\.attention)?\.((masked_)?bias|causal_mask|embed_positions)"
    r"|.*\battention\.(masked_)?bias|.*rotary(_pos)?_emb\..*inv_freq|.*rotary_emb\.(cos|sin)_cached"
)
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "output_projection.weight")
# What models of pictures and text have besides the language model.
_PICTURES = re.compile(
    r"(vision_.*|visual|multi_modal_projector|mm_projector|image_.*|audio_.*)\..*"
)


def unpack(
    source: TensorSource, spec: ModelSpec, family: str, where: str, *, wrapped: bool = False
) -> tuple[LazyTensors, dict[str, str]]:
    """Extract our tensors from a file in the layout of `family`, each on access.

    Also returns the dtype code of each in the file. The file must have every tensor of the layout
    in its shape, and no other besides buffers and a tied head that equals the embedding. Names may
    lack the modules that hold the model, as those of a base class do, or have more of them.
    wrapped: whether tensors of a part for pictures are left out. Raises CheckpointError.
    """
    table, layout = list_parameters(spec), make_layout(spec, family)
    found = _strip_prefixes(source, where)
    origins: dict[str, tuple[StoredTensor, list[str]]] = {}
    for stored in layout:
        name = found.pop(strip_holders(stored.name), None)
        if name is None:
            raise CheckpointError(_explain_missing(where, stored.name, found))
        kind, shape = source.infos[name], stored.compute_shape(table)
        if kind.dtype not in FLOATS:
            raise CheckpointError(
                f"{where}: tensor {name!r} is {kind.dtype}, and hermes reads {', '.join(FLOATS)}; "
                "if the weights are quantized, dequantize them first: mlx_lm.convert --dequantize, "
                "or transformers' dequantize()"
            )
        if kind.shape != shape:
            raise CheckpointError(
                f"{where}: tensor {name!r} has shape {kind.shape}, expected {shape}"
            )
        for part in stored.parts:
            origins.setdefault(part, (stored, []))[1].append(name)
    (embedding,) = origins[EMBEDDING][1]
    for plain, name in found.items():
        if plain in _HEADS and spec.embeddings.tie_weights:
            if not np.array_equal(source[name], source[embedding]):
                raise CheckpointError(
                    f"{where} has a {name!r} that differs from {embedding!r}, "
                    "but its config ties the two"
                )
        elif not _BUFFERS.fullmatch(plain) and not (wrapped and _PICTURES.fullmatch(plain)):
            raise CheckpointError(f"{where} has a tensor {name!r}, which its config does not have")

    has_unit_head = family in FAMILIES and FAMILIES[family].has_unit_head(spec)

    def make(part: str) -> Array:
        stored, names = origins[part]
        pieces = [source[name] for name in names]
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        ours = stored.unpack(whole, part, table)
        return _divide_by_length(ours) if part == HEAD and has_unit_head else ours

    dtypes = {part: source.infos[names[0]].dtype for part, (_, names) in origins.items()}
    return LazyTensors(table, make), dtypes


def _divide_by_length(rows: Array) -> Array:
    """Divide each row by its length, as torch.nn.functional.normalize does, in float32 or more."""
    exact = rows.astype(np.promote_types(rows.dtype, np.float32))
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray((exact / np.maximum(length, 1e-12)).astype(rows.dtype))


def _strip_prefixes(source: TensorSource, where: str) -> dict[str, str]:
    """Map names without wrappers and holders to the names in the file."""
    found: dict[str, str] = {}
    for name in source.infos:
        plain = strip_holders(strip_wrappers(name))
        if plain in found:
            raise CheckpointError(
                f"{where} has two tensors for {plain!r}: {found[plain]!r}, {name!r}"
            )
        found[plain] = name
    return found


def _explain_missing(where: str, name: str, found: Mapping[str, str]) -> str:
    """Explain that a tensor is missing, with what to do in the cases that are known."""
    said = f"{where} has no tensor {name!r}, which its config needs"
    if strip_holders(name) in _HEADS:
        return (
            f"{said}: it was saved from the class without a head, or its head is tied, which "
            'config.json says by "tie_word_embeddings": true'
        )
    lora = next(
        (other for other in found.values() if "lora_" in other or "base_layer" in other), ""
    )
    if lora:
        return f"{said}: it has adapters in it, like {lora!r}; merge them in PEFT and save again"
    scales = next(
        (other for other in found if other.endswith((".scales", ".qweight", ".absmax"))), ""
    )
    if scales:
        return f"{said}: its weights are quantized ({scales!r}); dequantize them first"
    return said


def pack(params: Tensors, spec: ModelSpec, family: str) -> LazyTensors:
    """Assemble the tensors that `family` stores from ours, each on access."""
    layout = {stored.name: stored for stored in make_layout(spec, family)}
    return LazyTensors(layout, lambda name: layout[name].pack(params))
