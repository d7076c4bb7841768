"""The lines that `hermes info`, `hermes mal show` and `hermes mal diff` print."""

import re
from collections.abc import Iterable, Iterator, Mapping

from hermes.formatting import format_columns, format_count, format_with_unit
from hermes.mal.writer import format_number
from hermes.model_info.cost import Cost
from hermes.model_info.diff import Difference
from hermes.model_info.shape import (
    describe_layer,
    describe_model,
    format_ranges,
    group_layers,
    group_tensors,
)
from hermes.numerics.params import Tensor, list_parameters
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    FfnSpec,
    LayerNorm,
    ModelSpec,
    NoNorm,
    Norm,
    QkNorm,
    RMSNorm,
)

__all__ = ["format_cost", "format_diff", "format_layers", "format_shape", "format_title"]

TYPES = ("float32", "bfloat16")


def format_title(spec: ModelSpec) -> str:
    """Format the model's name and description as one line."""
    return f"{spec.name}: {' '.join(spec.description.split())}" if spec.description else spec.name


def format_shape(spec: ModelSpec) -> list[str]:
    """Format the shape of a model, with a few lines for each kind of layer."""
    e, o = spec.embeddings, spec.output
    rows = [
        ("layers", f"{spec.num_layers:,}"),
        ("hidden size", f"{spec.hidden_size:,}"),
        ("vocabulary", f"{spec.vocab_size:,}"),
        ("context", f"{spec.max_seq_len:,} tokens"),
    ]
    groups = group_layers(spec)
    for indices, block in groups:
        indent = ""
        if len(groups) > 1:
            indent = "  "
            rows.append(
                (f"layers {format_ranges(indices)}" if indices[1:] else f"layer {indices[0]}", "")
            )
        rows += [(f"{indent}{name}", text) for name, text in _describe_block(block)]
    head = ["tied to the embeddings" if e.tie_weights else "untied"]
    head += ["bias"] if o.bias else []
    head += [f"logits scaled by {o.scale:g}"] if o.scale else []
    head += [f"soft cap {o.softcap:g}"] if o.softcap else []
    head += [f"after {_describe_norm(spec.final_norm)}"] if o.norm is not None else []
    rows.append(("head", ", ".join(head)))
    scaled = [f"scaled by {e.scale:g}"] if e.scale is not None else []
    scaled += [_describe_norm(e.norm)] if e.norm is not None else []
    scaled += [f"dropout {e.dropout:g}"] if e.dropout else []
    rows += [("embeddings", ", ".join(scaled))] if scaled else []
    return [f"  {line}" for line in format_columns(rows)]


def _describe_norm(norm: Norm) -> str:
    match norm:
        case RMSNorm(eps, unit_offset, weight):
            note = ", unit offset" if unit_offset else "" if weight else ", no weight"
            return f"rmsnorm, eps {format_number(eps)}{note}"
        case LayerNorm(eps, bias, weight, unit_offset):
            note = "" if bias else ", no bias" if weight else ", no weight or bias"
            note += ", unit offset" if unit_offset else ""
            return f"layernorm, eps {format_number(eps)}{note}"
        case NoNorm():
            return "no norm"


def _describe_block(block: BlockSpec) -> Iterator[tuple[str, str]]:
    """Describe a resolved layer in the words of model cards; `format_layers` has every key."""
    if block.attention is None:
        yield "attention", "none"
    else:
        yield from _describe_attention(block.attention, describe_layer(block))
    yield "feed-forward", "none" if block.ffn is None else _describe_ffn(block.ffn)
    places = {"pre": "before", "post": "after the sum of", "output": "after", "sandwich": "around"}
    yield "norm", f"{_describe_norm(block.norm)}, {places[block.norm_position]} each sublayer"
    notes = ["attention and feed-forward in parallel"] if block.parallel else []
    notes += ["which share their norm"] if block.shared_norm else []
    notes += [] if block.residual else ["no residual"]
    notes += [f"residual scale {block.residual_scale:g}"] if block.residual_scale else []
    if notes:
        yield "block", ", ".join(notes)
    parts = (("attention", block.attention), ("feed-forward", block.ffn), ("residual", block))
    rates = [f"{name} {part.dropout:g}" for name, part in parts if part and part.dropout]
    if rates:
        yield "dropout", ", ".join(rates)


def _describe_attention(a: AttentionSpec, keys: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    both = a.kv_heads == a.num_heads
    heads = f"{a.num_heads}" if both else f"{a.num_heads}, sharing {a.kv_heads} of keys and values"
    values = f", values {a.value_size}" if a.value_size != a.head_size else ""
    yield "heads", f"{heads}, {a.head_size} wide{values}"
    notes = [] if a.causal else ["not causal"]
    notes += [f"the last {a.window_size:,} tokens"] if a.window_size else []
    notes += [_describe_qk_norm(norm)] if (norm := a.query_key_norm) is not None else []
    notes += [f"soft cap {a.softcap:g}"] if a.softcap else []
    notes += [f"scale {a.scale:g}"] if a.scale else []
    notes += [f"q, k and v clipped to {a.clip_qkv:g}"] if a.clip_qkv else []
    notes += ["sinks"] if a.sinks else []
    notes += ["output gate"] if a.output_gate else []
    biases = {"all": "bias", "qkv": "bias of q, k and v", "o": "bias of the output"}
    notes += [biases[a.bias]] if a.bias != "none" else []
    if notes:
        yield "attention", ", ".join(notes)
    yield "positions", _shorten_lists(keys["attention.position_encoding"])


def _describe_ffn(f: FfnSpec) -> str:
    notes = [f"{'gated ' * f.gated}{f.function}"]
    notes += [] if f.limit is None else [f"clamped to {f.limit:g}, alpha {f.alpha:g}"]
    notes += ["bias"] if f.bias else []
    return f"{f.hidden_size:,} wide, {', '.join(notes)}"


def _shorten_lists(text: str) -> str:
    """Shorten lists of numbers to their lengths: longrope has one for each pair."""

    def describe(found: re.Match[str]) -> str:
        return f"[{format_count(found[0].count(',') + 1, 'numbers')}]"

    return re.sub(r"\[[^\]]*\]", describe, text)


def _describe_qk_norm(norm: QkNorm) -> str:
    over = norm.over.replace("_", " ")
    kind = "layernorm" if norm.norm == "layernorm" else "norm"
    return f"{over} {kind} of queries and keys{', without weights' * (not norm.weight)}"


def format_cost(spec: ModelSpec, cost: Cost) -> Iterator[str]:
    """Format the parameters, FLOPs, KV cache and memory of a model."""
    rows = [("parameters", f"{cost.parameters:,}", "")]
    for part, count in cost.parameters_by_part.items():
        if count:
            rows.append((f"  {part}", f"{count:,}", f"{100 * count / cost.parameters:.1f} %"))
    yield from format_columns(rows, right=(1, 2))
    yield ""
    yield "FLOPs per token"
    flops = cost.flops_per_token
    rows = [
        ("training", format_with_unit(flops["training"], "FLOP"), "mean over a full context"),
        (
            "decoding",
            format_with_unit(flops["decoding"], "FLOP"),
            "the last token of a full context",
        ),
    ]
    yield from (f"  {line}" for line in format_columns(rows, right=(1,)))
    yield ""
    table: list[tuple[str, ...]] = [("memory", *TYPES)]
    kv = (f"{cost.kv_bytes_per_token[name]:,} B" for name in TYPES)
    table.append(("  KV cache of a token", *kv))
    labels = {
        "kv_cache": f"KV cache of {spec.max_seq_len:,} tokens",
        "weights": "weights",
        "decoding": "decoding, one sequence",
        "training": "training",
    }
    for key, label in labels.items():
        sizes = (format_with_unit(cost.memory[name][key], "B") for name in TYPES)
        table.append((f"  {label}", *sizes))
    yield from format_columns(table, right=(1, 2))
    yield ""
    yield "  Training keeps weights, gradients and AdamW's moments in float32."
    yield "  Activations, which grow with the batch, come on top."
    windowed = [i for i, block in enumerate(spec.layers) if _is_windowed(block, spec)]
    if windowed:
        layers = format_ranges(windowed)
        yield f"  Layers {layers} see only their window; the cache keeps every token."


def _is_windowed(block: BlockSpec, spec: ModelSpec) -> bool:
    window = None if block.attention is None else block.attention.window_size
    return window is not None and window < spec.max_seq_len


def format_layers(spec: ModelSpec) -> Iterator[str]:
    """Format every key of a model and of its layers, resolved; equal layers once."""
    yield format_title(spec)
    yield ""
    yield from (f"  {line}" for line in format_columns(describe_model(spec).items()))
    for indices, block in group_layers(spec):
        yield ""
        yield f"layers {format_ranges(indices)}" if len(indices) > 1 else f"layer {indices[0]}"
        yield from (f"  {line}" for line in format_columns(describe_layer(block).items()))


def format_diff(difference: Difference, a: str, b: str) -> Iterator[str]:
    """Format the differences of two models, called `a` and `b`."""
    if difference.same:
        yield f"{a} and {b} are one architecture"
    else:
        yield from _format_structure(difference, a, b)
        yield ""
        yield from _format_costs(difference, a, b)
    yield ""
    yield from _format_tensors(difference, a, b)


def _format_structure(difference: Difference, a: str, b: str) -> Iterator[str]:
    rows = [("structure", a, b)]
    where = ""
    for change in difference.structure:
        if change.where != where:
            where = change.where
            rows.append((f"  {where}", "", ""))
        rows.append((f"    {change.key}", change.a, change.b))
    yield from format_columns(rows)


def _format_costs(difference: Difference, a: str, b: str) -> Iterator[str]:
    left, right = difference.cost_a, difference.cost_b
    rows: list[tuple[str, ...]] = [("cost", a, b, "")]

    def add(label: str, x: int, y: int, unit: str = "") -> None:
        if x or y:
            shown = [format_with_unit(n, unit) if unit else f"{n:,}" for n in (x, y)]
            ratio = "" if x == y or not x else f"x {y / x:.3g}"
            rows.append((f"  {label}", *shown, ratio))

    add("parameters", left.parameters, right.parameters)
    for part, count in left.parameters_by_part.items():
        add(f"  {part}", count, right.parameters_by_part[part])
    for kind, count in left.flops_per_token.items():
        add(f"{kind}, a token", count, right.flops_per_token[kind], "FLOP")
    for name in TYPES:
        x, y = left.kv_bytes_per_token[name], right.kv_bytes_per_token[name]
        add(f"KV cache of a token, bytes, {name}", x, y)
    for name in TYPES:
        for kind in ("decoding", "training"):
            x, y = left.memory[name][kind], right.memory[name][kind]
            add(f"memory for {kind}, {name}", x, y, "B")
    yield from format_columns(rows, right=(1, 2, 3))


def _format_tensors(difference: Difference, a: str, b: str) -> Iterator[str]:
    left, right = list_parameters(difference.a), list_parameters(difference.b)
    reshaped = [r.name for r in difference.reshaped]
    groups = [
        ("same name and shape", difference.reusable, left),
        ("same name, other shape", reshaped, right),
        (f"only in {a}", difference.only_a, left),
        (f"only in {b}", difference.only_b, right),
    ]
    rows = [("tensors", "", "")]
    for label, names, table in groups:
        if names:
            count = sum(table[name].size for name in names)
            rows.append((f"  {label}", f"{len(names):,}", f"{count:,} parameters"))
    yield from format_columns(rows, right=(1, 2))
    share = 100 * sum(left[name].size for name in difference.reusable)
    yield f"  {share / difference.cost_b.parameters:.1f} % of {b} can start from {a}'s weights"
    for label, names, table in groups[1:]:
        if names:
            yield ""
            yield label
            yield from (f"  {line}" for line in _format_tensor_names(names, table, left, right))


def _format_tensor_names(
    names: Iterable[str],
    table: Mapping[str, Tensor],
    left: Mapping[str, Tensor],
    right: Mapping[str, Tensor],
) -> list[str]:
    """Format tensors by name with their shapes, one line for all layers."""
    rows = []
    for label, members in group_tensors(names, table):
        first = members[0]
        shapes = [str(side[first].shape) for side in (left, right) if first in side]
        rows.append((label, " -> ".join(shapes)))
    return format_columns(rows)
