"""Which Hugging Face class computes the same function as a specification.

`find_family` decides: the form of the block selects a family, and anything that this family's class
cannot express makes it `hermes`. Dropout is ignored: it changes training, not the function.
"""

import dataclasses
import math
from collections.abc import Sequence

from hermes.numerics.positions import yarn_range
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    DynamicScaling,
    FfnSpec,
    LayerNorm,
    Learned,
    LongRopeScaling,
    ModelSpec,
    NoPositions,
    Positions,
    QkNorm,
    RMSNorm,
    Rope,
    WholeBlock,
    YarnScaling,
    is_whole,
)

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "build_pattern",
    "find_attention_scalar",
    "find_common_block",
    "find_family",
    "find_window_period",
    "list_positions",
    "list_windows",
    "name_activation",
]

# model_type -> class, as in config.json. No release of transformers has the class of `hermes`.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "hermes": "HermesForCausalLM",
}

# Hugging Face's names of activation functions -> MAL's.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def find_common_block(spec: ModelSpec) -> WholeBlock | None:
    """Find the block that all layers share, apart from dropout, window and positions.

    None where layers differ in more than these, or one has no attention or no ffn.
    """
    layers = [layer for layer in spec.layers if is_whole(layer)]
    if len(layers) < spec.num_layers:
        return None
    shapes = {
        dataclasses.replace(
            layer,
            dropout=0.0,
            attention=dataclasses.replace(
                layer.attention, dropout=0.0, window_size=None, position_encoding=NoPositions()
            ),
            ffn=dataclasses.replace(layer.ffn, dropout=0.0),
        )
        for layer in layers
    }
    return shapes.pop() if len(shapes) == 1 else None


def list_windows(spec: ModelSpec) -> list[int | None]:
    """List the window of each layer; None where it has full attention."""
    return [attention.window_size for attention in spec.attentions]


def find_window_period(windows: Sequence[int | None]) -> int | None:
    """Find n such that all layers but every n-th have a window; None for other patterns.

    This is Gemma 3's older form, sliding_window_pattern. For other patterns it is written as null:
    a reader that knows only this form then fails, instead of computing something else.
    """
    period = next((i for i, window in enumerate(windows) if window is None), len(windows)) + 1
    regular = all((w is None) == ((i + 1) % period == 0) for i, w in enumerate(windows))
    return period if regular else None


def list_positions(spec: ModelSpec) -> list[Positions]:
    """List the positions of each layer; a rotary_dim of the whole head becomes None."""
    return [
        dataclasses.replace(position, rotary_dim=None)
        if isinstance(position, Rope) and position.rotary_dim == attention.head_size
        else position
        for attention in spec.attentions
        for position in [attention.position_encoding]
    ]


def build_pattern(
    block: BlockSpec, windows: Sequence[int | None], positions: Sequence[Positions]
) -> tuple[BlockSpec, ...]:
    """Build the shortest pattern of blocks that gives every layer its window and positions."""
    assert is_whole(block), "readers of configurations make no other blocks"
    layers = list(zip(windows, positions, strict=True))
    period = next(
        p
        for p in range(1, len(layers) + 1)
        if all(layer == layers[i % p] for i, layer in enumerate(layers))
    )
    names: dict[tuple[int | None, Positions], str] = {}
    for window, position in layers[:period]:
        word = "full" if window is None else "sliding"
        same = sum(name.startswith(word) for name in names.values())
        names.setdefault((window, position), f"{word}{same + 1}" if same else word)
    return tuple(
        dataclasses.replace(
            block,
            name=names[window, position] if period > 1 else "",
            attention=dataclasses.replace(
                block.attention, window_size=window, position_encoding=position
            ),
        )
        for window, position in layers[:period]
    )


def find_family(spec: ModelSpec, *, renamed: bool = False) -> str:
    """Find the `model_type` of the smallest class that computes what the spec does, or 'hermes'.

    renamed: whether to consider classes whose tensor names differ from ours (gpt2, gpt_neox).
    """
    block = find_common_block(spec)
    if block is None or not _is_ordinary(spec, block):
        return "hermes"
    match block.norm:
        case RMSNorm(weight=True):
            return _match_rms_family(spec, block)
        case LayerNorm(bias=True) if renamed:
            return _match_layernorm_family(spec, block)
    return "hermes"


def _is_ordinary(spec: ModelSpec, block: WholeBlock) -> bool:
    """Whether the parts that are the same in all supported classes are so in the spec."""
    return (
        block.residual
        and block.residual_scale is None
        and not block.shared_norm
        and block.ffn.limit is None
        and block.attention.causal
        and _has_common_attention(block.attention)
        and spec.final_norm == block.norm
        and not spec.output.bias
        and spec.output.scale is None
        and spec.embeddings.norm is None
    )


def _has_common_attention(attention: AttentionSpec) -> bool:
    """Whether attention has none of the fields that no class here has."""
    return (
        attention.value_size == attention.head_size
        and attention.clip_qkv is None
        and not attention.sinks
        and not attention.output_gate
        and attention.bias in ("none", "qkv", "all")
        and not isinstance(attention.qk_norm, QkNorm)
    )


def _match_rms_family(spec: ModelSpec, block: WholeBlock) -> str:
    attention, ffn = block.attention, block.ffn
    windows = set(list_windows(spec))
    plain = _has_plain_scores(spec, attention) and len(set(list_positions(spec))) == 1
    if (
        block.parallel
        or not ffn.gated
        or not all(_is_whole_rope(spec, r) for r in list_positions(spec))
    ):
        return "hermes"
    if isinstance(block.norm, RMSNorm) and block.norm.unit_offset:
        return _match_gemma_family(spec, block)
    match block.norm_position, attention.qk_norm, attention.bias, ffn.bias:
        case "pre", "none", "none" | "all", _ if plain and windows == {None}:
            if spec.hidden_size % attention.num_heads == 0:
                return "llama"
            # LlamaConfig refuses such sizes; Mistral without a window computes the same.
            return "hermes" if attention.bias == "all" or ffn.bias else "mistral"
        case "pre", "none", "none", False if plain and len(windows) == 1:
            return "mistral"
        case "pre", "none", "qkv", False if plain and len(windows - {None}) <= 1:
            return "qwen2"
        case "pre", "head", "none" | "all", False if plain and len(windows - {None}) <= 1:
            return "qwen3"
        case "output", "flat", "none" | "all", False if plain and windows == {None}:
            return "olmo2"
    return "hermes"


def _match_gemma_family(spec: ModelSpec, block: WholeBlock) -> str:
    attention = block.attention
    ropes, windows = list_positions(spec), list_windows(spec)
    sliding = {rope for rope, window in zip(ropes, windows, strict=True) if window is not None}
    full = {rope for rope, window in zip(ropes, windows, strict=True) if window is None}
    fits = (
        block.norm_position == "sandwich"
        and attention.bias in ("none", "all")
        and not block.ffn.bias
        and spec.hidden_size % attention.num_heads == 0
        and len(set(windows) - {None}) <= 1
        and spec.embeddings.scale is not None
        and math.isclose(spec.embeddings.scale, math.sqrt(spec.hidden_size), rel_tol=1e-7)
        and find_attention_scalar(attention) is not None
    )
    if fits and attention.qk_norm == "none" and len(sliding | full) == 1:
        return "gemma2"
    local = all(isinstance(rope, Rope) and rope.scaling is None for rope in sliding)
    if fits and attention.qk_norm == "head" and attention.softcap is None and local:
        return "gemma3_text" if len(sliding) <= 1 and len(full) <= 1 else "hermes"
    return "hermes"


def _match_layernorm_family(spec: ModelSpec, block: WholeBlock) -> str:
    attention, ffn = block.attention, block.ffn
    positions = set(list_positions(spec))
    fits = (
        block.norm_position == "pre"
        and not ffn.gated
        and ffn.bias
        and _has_plain_scores(spec, attention)
        and attention.qk_norm == "none"
        and attention.kv_heads == attention.num_heads
        and attention.head_size * attention.num_heads == spec.hidden_size
        and set(list_windows(spec)) == {None}
        and len(positions) == 1
    )
    match positions.pop():
        case Learned() if fits and attention.bias == "all" and not block.parallel:
            return "gpt2"
        case Rope() as rope if fits and attention.bias != "qkv" and _has_valid_ramp(spec, rope):
            return "gpt_neox"
    return "hermes"


def _has_plain_scores(spec: ModelSpec, attention: AttentionSpec) -> bool:
    """Whether only 1 / sqrt(D) scales scores, and nothing scales or caps embeddings or logits."""
    usual = math.isclose(attention.score_scale, attention.head_size**-0.5, rel_tol=1e-12)
    return (
        usual
        and attention.softcap is None
        and spec.embeddings.scale is None
        and spec.output.softcap is None
    )


def _is_whole_rope(spec: ModelSpec, position: Positions) -> bool:
    return (
        isinstance(position, Rope)
        and position.rotary_dim is None
        and _has_valid_ramp(spec, position)
    )


def _has_valid_ramp(spec: ModelSpec, rope: Rope) -> bool:
    """False for scalings that no class here is given, and for a YaRN whose ramp is empty.

    Readers compute an empty ramp differently.
    """
    match rope.scaling:
        case LongRopeScaling() | DynamicScaling():
            return False
        case YarnScaling() as yarn:
            size = rope.rotary_dim or spec.attentions[0].head_size
            low, high = yarn_range(yarn, rope.theta, size)
            return low <= high and yarn.attention_factor is None and yarn.truncate
    return True


def find_attention_scalar(attention: AttentionSpec) -> int | None:
    """Find Gemma's query_pre_attn_scalar s: the scale is 1 / sqrt(s); None if s is no integer."""
    scalar = round(attention.score_scale**-2)
    fits = scalar >= 1 and math.isclose(scalar**-0.5, attention.score_scale, rel_tol=1e-12)
    return scalar if fits else None


def name_activation(ffn: FfnSpec, gelu_tanh: str = "gelu_pytorch_tanh") -> str:
    """Name the activation as Hugging Face does; gelu_tanh has several names."""
    return gelu_tanh if ffn.function == "gelu_tanh" else ffn.function
