"""Names and layouts of tensors in other tools' files, converted in both directions.

A layout is a list of stored tensors, each made of one or several of ours. GPT-2 stores query, key
and value as one transposed matrix, GPT-NeoX and older litgpt interleave them head by head. Llama
and its relatives have our own names, so their layout is one to one.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hermes.checkpoint import TensorInfo
from hermes.checkpoint.weights import strip_wrappers
from hermes.errors import CheckpointError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.numerics.params import Tensor, list_norms, list_parameters
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["StoredTensor", "TensorSource", "make_layout", "pack", "unpack"]

EMBEDDING = "model.embed_tokens.weight"
OPTIONAL = "transformer."  # prefix of GPT-2's names in some files
FLOATS = ("F64", "F32", "F16", "BF16")


class TensorSource(Protocol):
    """Tensors by their names in a file, each read on access; infos: their dtypes and shapes."""

    infos: dict[str, TensorInfo]

    def __getitem__(self, name: str) -> Array:
        """Read one tensor."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of another layout, made of one or more of ours.

    parts: our names. groups: each part's rows are cut into so many equal groups, and the tensor is
    group 0 of every part, then group 1 of every part, and so on. transposed: stored as (in, out).
    """

    name: str
    parts: tuple[str, ...]
    groups: int = 1
    transposed: bool = False

    def compute_shape(self, table: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Compute its shape from those of its parts."""
        rows = sum(table[part].shape[0] for part in self.parts)
        shape = (rows, *table[self.parts[0]].shape[1:])
        return shape[::-1] if self.transposed else shape

    def pack(self, params: Tensors) -> Array:
        """Assemble the stored tensor from ours."""
        arrays = [params[part] for part in self.parts]
        if len(arrays) > 1:
            shares = [a.reshape(self.groups, -1, *a.shape[1:]) for a in arrays]
            joined = np.concatenate(shares, axis=1)
            whole = joined.reshape(-1, *joined.shape[2:])
        else:
            whole = arrays[0]
        return whole.T if self.transposed else whole

    def unpack(self, stored: Array, part: str, table: Mapping[str, Tensor]) -> Array:
        """Extract one of our tensors from the stored one."""
        whole = stored.T if self.transposed else stored
        if len(self.parts) > 1:
            sizes = [table[p].shape[0] // self.groups for p in self.parts]
            start = sum(sizes[: self.parts.index(part)])
            shares = whole.reshape(self.groups, -1, *whole.shape[1:])
            size = table[part].shape[0] // self.groups
            whole = shares[:, start : start + size]
        return np.ascontiguousarray(whole.reshape(table[part].shape))


# Their module -> ours. {i} is the layer; {attention_in} and the like are places of NORM_NAMES and
# stand for the norm at that position. `*` marks a matrix stored as (in, out), `@` rows interleaved
# by groups. A tensor's name is its module's with .weight or .bias.
_QKV = "self_attn.q_proj self_attn.k_proj self_attn.v_proj"
_GPT2 = {
    "wte": "model.embed_tokens",
    "wpe": "model.embed_positions",
    "h.{i}.ln_1": "{attention_in}",
    "h.{i}.attn.c_attn*": _QKV,
    "h.{i}.attn.c_proj*": "self_attn.o_proj",
    "h.{i}.ln_2": "{ffn_in}",
    "h.{i}.mlp.c_fc*": "mlp.up_proj",
    "h.{i}.mlp.c_proj*": "mlp.down_proj",
    "ln_f": "model.norm",
    "lm_head": "lm_head",
}
_LITGPT = {
    "wte": "model.embed_tokens",
    "h.{i}.norm_1": "{attention_in}",
    "h.{i}.attn.qkv": _QKV,
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
_GPT_NEOX = {
    "gpt_neox.embed_in": "model.embed_tokens",
    "gpt_neox.layers.{i}.input_layernorm": "{attention_in}",
    "gpt_neox.layers.{i}.attention.query_key_value@": _QKV,
    "gpt_neox.layers.{i}.attention.dense": "self_attn.o_proj",
    "gpt_neox.layers.{i}.post_attention_layernorm": "{ffn_in}",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h": "mlp.up_proj",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h": "mlp.down_proj",
    "gpt_neox.final_layer_norm": "model.norm",
    "embed_out": "lm_head",
}


def _choose_modules(spec: ModelSpec, family: str) -> Mapping[str, str] | None:
    match family:
        case "gpt2" if spec.embeddings.tie_weights:
            return _GPT2
        case "gpt2":  # untied: without the prefix, transformers 4 takes the head for a layer
            return {n if n == "lm_head" else OPTIONAL + n: ours for n, ours in _GPT2.items()}
        case "nanogpt":  # GPT-2's names over ordinary matrices
            return {name.removesuffix("*"): ours for name, ours in _GPT2.items()}
        case "gpt_neox":
            return _GPT_NEOX
        case "litgpt" | "litgpt-old":
            modules = dict(_LITGPT)
            ffn = spec.layers[0].ffn
            if ffn is not None and ffn.gated:
                del modules["h.{i}.mlp.fc"]
                modules |= _GATED
            if family == "litgpt-old":
                del modules["h.{i}.attn.qkv"]
                modules["h.{i}.attn.attn@"] = _QKV
            return modules
    return None


def make_layout(spec: ModelSpec, family: str) -> list[StoredTensor]:
    """Make the list of tensors that `family` stores; each of ours is part of exactly one.

    family: a model_type of config.json, nanogpt, litgpt, or litgpt-old, which interleaves query,
    key and value.
    """
    table = list_parameters(spec)
    modules = _choose_modules(spec, family)
    if modules is None:
        return [StoredTensor(name, (name,)) for name in table]
    once = [
        s for name, ours in modules.items() if "{i}" not in name for s in _make_stored(name, [ours])
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


def _make_stored(name: str, parts: list[str], groups: int = 1) -> Iterator[StoredTensor]:
    plain = name.rstrip("*@")
    grouped = groups if name.endswith("@") else 1
    for kind in ("weight", "bias"):
        yield StoredTensor(
            f"{plain}.{kind}",
            tuple(f"{part}.{kind}" for part in parts),
            grouped,
            transposed=name.endswith("*") and kind == "weight",
        )


# Buffers in older files, which are not parameters: causal masks and RoPE frequencies.
_BUFFERS = re.compile(r"(h\.\d+\.attn|.*\.attention)\.(masked_)?bias|.*rotary_emb\.inv_freq")
_HEADS = ("lm_head.weight", "embed_out.weight")


def unpack(
    source: TensorSource, spec: ModelSpec, family: str, where: str
) -> tuple[LazyTensors, dict[str, str]]:
    """Extract our tensors from a file in the layout of `family`, each on access.

    Also returns the dtype code of each in the file. The file must have every tensor of the layout
    in its shape, and no other besides buffers and a tied head that equals the embedding. Raises
    CheckpointError.
    """
    table, layout = list_parameters(spec), make_layout(spec, family)
    found = _strip_prefixes(source, where)
    origins: dict[str, tuple[StoredTensor, str]] = {}
    for stored in layout:
        name = found.pop(stored.name.removeprefix(OPTIONAL), None)
        if name is None:
            raise CheckpointError(f"{where} has no tensor {stored.name!r}, which its config needs")
        kind, shape = source.infos[name], stored.compute_shape(table)
        if kind.shape != shape:
            raise CheckpointError(
                f"{where}: tensor {name!r} has shape {kind.shape}, expected {shape}"
            )
        if kind.dtype not in FLOATS:
            raise CheckpointError(
                f"{where}: tensor {name!r} is {kind.dtype}, expected one of {', '.join(FLOATS)}"
            )
        origins |= {part: (stored, name) for part in stored.parts}
    embedding = origins[EMBEDDING][1]
    for plain, name in found.items():
        if plain in _HEADS and spec.embeddings.tie_weights:
            if not np.array_equal(source[name], source[embedding]):
                raise CheckpointError(
                    f"{where} has a {name!r} that differs from {embedding!r}, "
                    "but its config ties the two"
                )
        elif not _BUFFERS.fullmatch(plain):
            raise CheckpointError(f"{where} has a tensor {name!r}, which its config does not have")

    def make(part: str) -> Array:
        stored, name = origins[part]
        return stored.unpack(source[name], part, table)

    dtypes = {part: source.infos[name].dtype for part, (_, name) in origins.items()}
    return LazyTensors(table, make), dtypes


def _strip_prefixes(source: TensorSource, where: str) -> dict[str, str]:
    """Map names without the prefixes of wrappers and of GPT-2 to the names in the file."""
    found: dict[str, str] = {}
    for name in source.infos:
        plain = strip_wrappers(name).removeprefix(OPTIONAL)
        if plain in found:
            raise CheckpointError(f"{where} has two tensors for {plain!r}")
        found[plain] = name
    return found


def pack(params: Tensors, spec: ModelSpec, family: str) -> LazyTensors:
    """Assemble the tensors that `family` stores from ours, each on access."""
    layout = {stored.name: stored for stored in make_layout(spec, family)}
    return LazyTensors(layout, lambda name: layout[name].pack(params))
