"""The one table of a model's tensors: name, shape, part, weight decay and initial values.

Names are those of Hugging Face's Llama, and of its other models for what Llama lacks; they are the
attribute paths of the modules in every backend. One of them misleads: `post_attention_layernorm`
is the norm before the feed-forward network in a pre-norm block, and the norm of the attention's
output elsewhere.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

from hermes.errors import SpecError
from hermes.formatting import format_count
from hermes.spec import (
    Alibi,
    AttentionSpec,
    BlockSpec,
    FfnSpec,
    LayerNorm,
    ModelSpec,
    Norm,
    RMSNorm,
)

if TYPE_CHECKING:  # importing NumPy would slow down `hermes info`, which only counts parameters
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "NORM_NAMES",
    "Tensor",
    "count_parameters",
    "find_head",
    "init_weights",
    "list_norms",
    "list_parameters",
    "list_unfrozen",
]

INIT_STD = 0.02

# norm_position -> where a norm applies -> its name. `attention_in` is the input of the sublayer,
# `attention_out` its output before the residual is added, `attention_sum` the sum of both.
NORM_NAMES: Mapping[str, Mapping[str, str]] = {
    "pre": {"attention_in": "input_layernorm", "ffn_in": "post_attention_layernorm"},
    "post": {"attention_sum": "post_attention_layernorm", "ffn_sum": "post_feedforward_layernorm"},
    "output": {
        "attention_out": "post_attention_layernorm",
        "ffn_out": "post_feedforward_layernorm",
    },
    "sandwich": {
        "attention_in": "input_layernorm",
        "attention_out": "post_attention_layernorm",
        "ffn_in": "pre_feedforward_layernorm",
        "ffn_out": "post_feedforward_layernorm",
    },
}


def list_norms(block: BlockSpec) -> Mapping[str, str]:
    """List the norms of a block: where each applies, as in NORM_NAMES, and its name."""
    return {
        at: name
        for at, name in NORM_NAMES[block.norm_position].items()
        if (block.attention if at.startswith("attention") else block.ffn) is not None
        and not (block.shared_norm and at == "ffn_in")
    }


@dataclass(frozen=True)
class Tensor:
    """A parameter.

    part: the row it is counted under in `hermes info`. init: 'normal' with standard deviation
    `std`, 'ones', 'zeros', or 'slopes' (of ALiBi). decay: whether AdamW's weight decay applies.
    """

    shape: tuple[int, ...]
    part: str
    init: str
    std: float = 0.0
    decay: bool = False

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def _make_matrix(part: str, rows: int, columns: int, std: float = INIT_STD) -> Tensor:
    return Tensor((rows, columns), part, "normal", std, decay=True)


def _walk_norm(
    name: str, norm: Norm, size: int, part: str = "norms"
) -> Iterator[tuple[str, Tensor]]:
    match norm:
        case RMSNorm(unit_offset=offset, weight=True):
            yield f"{name}.weight", Tensor((size,), part, "zeros" if offset else "ones")
        case LayerNorm(bias=bias, weight=True, unit_offset=offset):
            yield f"{name}.weight", Tensor((size,), part, "zeros" if offset else "ones")
            if bias:
                yield f"{name}.bias", Tensor((size,), part, "zeros")


def _walk_block(prefix: str, spec: ModelSpec, block: BlockSpec) -> Iterator[tuple[str, Tensor]]:
    if block.attention is not None:
        yield from _walk_attention(f"{prefix}.self_attn", spec, block, block.attention)
    if block.ffn is not None:
        yield from _walk_ffn(f"{prefix}.mlp", spec, block.ffn)
    for name in list_norms(block).values():
        yield from _walk_norm(f"{prefix}.{name}", block.norm, spec.hidden_size)


def _compute_last_std(spec: ModelSpec) -> float:
    """Compute the deviation of the 2 L matrices that write to the residual stream.

    They start smaller (GPT-2, section 2.3).
    """
    return INIT_STD / math.sqrt(2 * spec.num_layers)


def _walk_attention(
    at: str, spec: ModelSpec, block: BlockSpec, a: AttentionSpec
) -> Iterator[tuple[str, Tensor]]:
    width, last = spec.hidden_size, _compute_last_std(spec)
    queries, keys = a.num_heads * a.head_size, a.kv_heads * a.head_size
    mixed, values = a.num_heads * a.value_size, a.kv_heads * a.value_size
    projections = [("q_proj", queries), ("k_proj", keys), ("v_proj", values)]
    projections += [("gate_proj", mixed)] if a.output_gate else []
    for name, rows in projections:
        yield f"{at}.{name}.weight", _make_matrix("attention", rows, width)
        if a.has_qkv_bias:
            yield f"{at}.{name}.bias", Tensor((rows,), "attention", "zeros")
    yield f"{at}.o_proj.weight", _make_matrix("attention", width, mixed, last)
    if a.has_output_bias:
        yield f"{at}.o_proj.bias", Tensor((width,), "attention", "zeros")
    if a.sinks:
        yield f"{at}.sinks", Tensor((a.num_heads,), "attention", "zeros")
    if (form := a.query_key_norm) is not None:
        # The weights of each_head are stored one after another, a vector as those of flat.
        shared = form.over == "head"
        yield from _walk_norm(f"{at}.q_norm", block.qk_norm, a.head_size if shared else queries)
        yield from _walk_norm(f"{at}.k_norm", block.qk_norm, a.head_size if shared else keys)
    if isinstance(a.position_encoding, Alibi) and a.position_encoding.learned:
        yield f"{at}.alibi_slopes", Tensor((a.num_heads,), "positions", "slopes")


def _walk_ffn(at: str, spec: ModelSpec, f: FfnSpec) -> Iterator[tuple[str, Tensor]]:
    width, last = spec.hidden_size, _compute_last_std(spec)
    for name in ("gate_proj", "up_proj") if f.gated else ("up_proj",):
        yield f"{at}.{name}.weight", _make_matrix("ffn", f.hidden_size, width)
        if f.bias:
            yield f"{at}.{name}.bias", Tensor((f.hidden_size,), "ffn", "zeros")
    yield f"{at}.down_proj.weight", _make_matrix("ffn", width, f.hidden_size, last)
    if f.bias:
        yield f"{at}.down_proj.bias", Tensor((width,), "ffn", "zeros")


def _walk_model(spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    vocabulary, width = spec.vocab_size, spec.hidden_size
    yield "model.embed_tokens.weight", _make_matrix("embeddings", vocabulary, width)
    if spec.embeddings.norm is not None:
        yield from _walk_norm("model.embed_norm", spec.embeddings.norm, width)
    if spec.learned_positions:
        rows = spec.learned_positions
        yield (
            "model.embed_positions.weight",
            Tensor((rows, width), "positions", "normal", INIT_STD),
        )
    for i, block in enumerate(spec.layers):
        yield from _walk_block(f"model.layers.{i}", spec, block)
    yield from _walk_norm("model.norm", spec.final_norm, width)
    if not spec.embeddings.tie_weights:
        yield "lm_head.weight", _make_matrix("head", vocabulary, width)
    if spec.output.bias:
        yield "lm_head.bias", Tensor((vocabulary,), "head", "zeros")


def find_head(spec: ModelSpec) -> str:
    """The name of the matrix that gives the logits: that of the embeddings where they are tied."""
    return "model.embed_tokens.weight" if spec.embeddings.tie_weights else "lm_head.weight"


@lru_cache(maxsize=16)
def list_parameters(spec: ModelSpec) -> Mapping[str, Tensor]:
    """List every tensor of the model by name, in the order of the forward pass."""
    return dict(_walk_model(spec))


def count_parameters(spec: ModelSpec) -> int:
    """Count the parameters exactly; a tied head is counted once."""
    return sum(tensor.size for tensor in list_parameters(spec).values())


def list_unfrozen(
    spec: ModelSpec, freeze_layers: int = 0, freeze: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """List the tensors that are trained when some are frozen.

    freeze_layers: N > 0 freezes the embeddings (and so a tied head) and the first N blocks. freeze:
    patterns of tensor names (*, ? and [] as in file names). Raises SpecError if there are fewer
    layers, a pattern matches nothing, or nothing is left to train.
    """
    if freeze_layers > spec.num_layers:
        there = format_count(spec.num_layers, "layers")
        raise SpecError(f"freeze_layers is {freeze_layers}; the model has {there}")
    table = list_parameters(spec)
    prefixes = ("model.embed_", *(f"model.layers.{i}." for i in range(freeze_layers)))
    frozen = {name for name in table if freeze_layers and name.startswith(prefixes)}
    for pattern in freeze:
        matched = [name for name in table if fnmatchcase(name, pattern)]
        if not matched:
            tied = spec.embeddings.tie_weights and fnmatchcase("lm_head.weight", pattern)
            advice = (
                "the head is tied, so freeze 'model.embed_tokens.weight'"
                if tied
                else "names are as 'model.layers.0.self_attn.q_proj.weight'"
            )
            raise SpecError(f"freeze {pattern!r} matches no tensor of the model; {advice}")
        frozen.update(matched)
    if len(frozen) == len(table):
        raise SpecError("every tensor is frozen, so there is nothing to train")
    return tuple(name for name in table if name not in frozen)


class _InitialWeights(Mapping[str, "NDArray[np.float32]"]):
    """Initial weights, each drawn from its own random stream when it is read."""

    def __init__(self, spec: ModelSpec, seed: int):
        self._table = list_parameters(spec)
        self._seed = seed

    def __getitem__(self, name: str) -> "NDArray[np.float32]":
        import numpy as np

        from hermes.numerics.positions import alibi_slopes
        from hermes.numerics.randomness import draw_normals

        tensor = self._table[name]
        match tensor.init:
            case "normal":
                return draw_normals(self._seed, f"weights/{name}", tensor.shape, tensor.std)
            case "slopes":
                return alibi_slopes(tensor.shape[0]).astype(np.float32)
            case _:
                return np.full(tensor.shape, tensor.init == "ones", np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


def init_weights(spec: ModelSpec, seed: int) -> "Mapping[str, NDArray[np.float32]]":
    """Make the initial weights of a run, bitwise equal on every backend and machine.

    Matrices are normal with standard deviation 0.02, or 0.02 / sqrt(2 L) if they write to the
    residual stream (Radford et al. 2019); norms are 1, biases 0. Each tensor is drawn from a random
    stream of its own name, so adding a layer changes no other tensor.
    """
    return _InitialWeights(spec, seed)
