"""The layout of a family's files: a list of stored tensors, each made of one or several of ours.

GPT-2 stores query, key and value as one transposed matrix, GPT-NeoX and older litgpt interleave
them head by head. Llama and its relatives have our own names, so their layout is one to one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from hermes.interop.huggingface.families import FAMILIES
from hermes.interop.huggingface.tensor_modules import GPT2, QKV
from hermes.interop.stored_tensor import StoredTensor
from hermes.numerics.params import list_norms, list_parameters
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["make_layout"]

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
