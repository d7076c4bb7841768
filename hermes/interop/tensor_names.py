"""Names and layouts of tensors in other tools' files, converted in both directions.

A layout is a list of stored tensors, each made of one or several of ours. GPT-2 stores query, key
and value as one transposed matrix, GPT-NeoX and older litgpt interleave them head by head. Llama
and its relatives have our own names, so their layout is one to one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from hermes.checkpoint import TensorInfo
from hermes.checkpoint.adapter_names import strip_holders
from hermes.checkpoint.weights import strip_wrappers
from hermes.errors import CheckpointError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.huggingface.families import FAMILIES
from hermes.interop.huggingface.tensor_modules import GPT2, QKV
from hermes.interop.stored_tensor import StoredTensor
from hermes.numerics.params import list_norms, list_parameters
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["TensorSource", "make_layout", "pack", "unpack"]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FLOATS = ("F64", "F32", "F16", "BF16")


class TensorSource(Protocol):
    """Tensors by their names in a file, each read on access; infos: their dtypes and shapes."""

    infos: dict[str, TensorInfo]

    def __getitem__(self, name: str) -> Array:
        """Read one tensor."""
        ...


_LITGPT = {
    "wte": "model.embed_tokens",
    "h.{i}.norm_1": "{attention_in}",
    "h.{i}.attn.qkv": QKV,
    "h.{i}.attn.norm_q": "self_attn.q_norm",
    "h.{i}.attn.norm_k": "self_attn.k_norm",
    "h.{i}.attn.proj": "self_attn.o_proj",
    "h.{i}.post_attention_norm": "{attention_out}",
    "h.{i}.norm_2": "{ffn_in}",
    "h.{i}.mlp.fc": "mlp.up_proj",
    "h.{i}.mlp.proj": "mlp.down_proj",
    "h.{i}.post_mlp_norm": "{ffn_out}",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
}
_GATED = {"h.{i}.mlp.fc_1": "mlp.gate_proj", "h.{i}.mlp.fc_2": "mlp.up_proj"}


def _choose_modules(spec: ModelSpec, family: str) -> Mapping[str, str] | None:
    match family:
        case "nanogpt":  # GPT-2's names over ordinary matrices
            return {name.removesuffix("*"): ours for name, ours in GPT2.items()}
        case "litgpt" | "litgpt-old":
            modules = dict(_LITGPT)
            ffn = spec.layers[0].ffn
            if ffn is not None and ffn.gated:
                del modules["h.{i}.mlp.fc"]
                modules |= _GATED
            if family == "litgpt-old":
                del modules["h.{i}.attn.qkv"]
                modules["h.{i}.attn.attn@"] = QKV
            return modules
    return FAMILIES[family].find_modules(spec) if family in FAMILIES else None


def make_layout(spec: ModelSpec, family: str) -> list[StoredTensor]:
    """Make the list of tensors that `family` stores.

    Each of ours is part of exactly one, or is stored in pieces, which follow each other.

    family: a model_type of config.json, nanogpt, litgpt, or litgpt-old, which interleaves query,
    key and value.
    """
    table = list_parameters(spec)
    modules = _choose_modules(spec, family)
    rotary = _list_rotary(spec, family)
    if modules is None:
        columns, pieces = _list_columns(spec, family), _list_pieces(spec, family)
        return [
            stored
            for name in table
            for stored in pieces.get(name)
            or [
                StoredTensor(
                    name, (name,), rotary=_pick(rotary, (name,)), columns=columns.get(name, 0)
                )
            ]
        ]
    once = [
        s
        for name, ours in modules.items()
        if "{i}" not in name
        for s in _make_stored(name, [ours], 1, {})
    ]
    layered = [
        stored
        for i, (layer, attention) in enumerate(zip(spec.layers, spec.attentions, strict=True))
        for name, ours in modules.items()
        if "{i}" in name
        for stored in _make_stored(
            name.replace("{i}", str(i)),
            [f"model.layers.{i}.{part}" for part in _resolve_norm_name(ours, layer).split()],
            attention.kv_heads,
            rotary,
        )
    ]
    layout = [stored for stored in once + layered if stored.parts[0] in table]
    parts = [part for stored in layout for part in stored.parts]
    assert sorted(parts) == sorted(table), f"{family} does not store {set(table) - set(parts)}"
    return layout


def _resolve_norm_name(ours: str, layer: BlockSpec) -> str:
    """Resolve a position in braces to the norm's name there, or "-"; keep any other module."""
    position = ours.strip("{}")
    return ours if position == ours else list_norms(layer).get(position, "-")


def _order_head(pairs: str, size: int, turning: int) -> tuple[int, ...]:
    """Where in a head of a family's files each row of ours is; `turning` of them are rotated."""
    first, second = range(0, turning, 2), range(1, turning, 2)
    if pairs == "swapped":
        first, second = range(turning // 2, turning), range(turning // 2)
    return (*first, *second, *range(turning, size))


def _list_rotary(spec: ModelSpec, family: str) -> dict[str, tuple[int, ...]]:
    """List the tensors whose rotary pairs lie otherwise in the files of a family, in what order."""
    pairs = FAMILIES[family].pairs if family in FAMILIES else "halves"
    if pairs == "halves":
        return {}
    return {
        f"model.layers.{i}.self_attn.{name}.{kind}": _order_head(
            pairs, attention.head_size, attention.rotary_size
        )
        for i, attention in enumerate(spec.attentions)
        for name in ("q_proj", "k_proj", "q_norm", "k_norm")
        for kind in ("weight", "bias")
        if attention.rotary_size
    }


def _list_columns(spec: ModelSpec, family: str) -> dict[str, int]:
    """List the norms that a family stores with a row for each head, and the size of a row."""
    if family not in FAMILIES or not FAMILIES[family].norms_by_head:
        return {}
    return {
        f"model.layers.{i}.self_attn.{name}_norm.weight": attention.head_size
        for i, attention in enumerate(spec.attentions)
        for name in ("q", "k")
    }


def _list_pieces(spec: ModelSpec, family: str) -> dict[str, list[StoredTensor]]:
    """List the norms that a family stores as a tensor for each head."""
    if family not in FAMILIES or not FAMILIES[family].has_head_norms(spec):
        return {}
    pattern = FAMILIES[family].head_norms
    return {
        (ours := f"model.layers.{i}.self_attn.{name}_norm.weight"): [
            StoredTensor(
                f"model.layers.{i}.{pattern.format(name=name, head=head)}.weight",
                (ours,),
                piece=head,
                pieces=heads,
            )
            for head in range(heads)
        ]
        for i, attention in enumerate(spec.attentions)
        for name, heads in (("q", attention.num_heads), ("k", attention.kv_heads))
    }


def _pick(
    rotary: Mapping[str, tuple[int, ...]], parts: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    return {part: rotary[part] for part in parts if part in rotary}


_MARKED = re.compile(r"(?P<plain>[^*@+]+)(?P<mark>[*@+]?)(?P<number>\d*)")


def _make_stored(
    name: str, parts: list[str], kv_heads: int, rotary: Mapping[str, tuple[int, ...]]
) -> Iterator[StoredTensor]:
    found = _MARKED.fullmatch(name)
    assert found is not None, f"{name} is not a module's name with a mark"
    plain, mark, number = found["plain"], found["mark"], int(found["number"] or 0)
    for kind in ("weight", "bias"):
        ours = tuple(f"{part}.{kind}" for part in parts)
        yield StoredTensor(
            f"{plain}.{kind}",
            ours,
            (number or kv_heads) if mark == "@" else 1,
            transposed=mark == "*" and kind == "weight",
            rows_before=number if mark == "+" else 0,
            rotary=_pick(rotary, ours),
        )


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
