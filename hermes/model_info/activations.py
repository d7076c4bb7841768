"""What a layer holds in memory while a step trains it, from its spec alone, for each backend.

The counts are those of the backends' own graphs. For torch they are exact, tensor by tensor: what
autograd saves (tests/model_info/test_activations.py counts it on real learners). MLX has no such
list; its counts are of what the derivatives of its functions read.

Letters: N tokens of a micro-batch, B sequences of T tokens, C hidden size, H query heads, K
key/value heads, D head size, E that of values, F feed-forward size; a the bytes of an activation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hermes.model_info.attention_activations import (
    count_attention_bytes,
    count_mlx_scores,
    is_written_out,
)
from hermes.model_info.layer_shape import (
    ALL_TRAINED,
    BITS,
    LayerTraining,
    Shape,
    count_norm_bytes,
)
from hermes.numerics.params import list_norms
from hermes.spec import BlockSpec
from hermes.spec.block import FfnSpec

__all__ = ["BYTES_OF", "LayerBytes", "count_layer_bytes"]

BYTES_OF = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of a layer.

    kept: from its forward pass to its backward pass. entry: of its input, which alone is kept where
    the layer is recomputed. working: what its backward pass needs besides. gradient: and, where its
    feed-forward matrices are trained, until theirs is in place. products: of the outputs of its
    products and of attention, which selective checkpointing keeps with the input.
    """

    kept: int
    entry: int
    working: int
    gradient: int = 0
    products: int = 0


def count_layer_bytes(
    block: BlockSpec, hidden_size: int, shape: Shape, training: LayerTraining = ALL_TRAINED
) -> LayerBytes:
    """Count what a layer keeps for its backward pass, and what that needs besides."""
    N, C, a = shape.tokens, hidden_size, shape.activation
    norms = list_norms(block)
    kept = len(norms) * N * count_norm_bytes(block.norm, C, shape, trained=training.norms)
    if block.parallel and {"attention_in", "ffn_in"} <= norms.keys() and a == shape.master:
        kept -= N * C * a  # both norms read the same input
    first = {"attention": ("q_proj", "k_proj", "v_proj"), "ffn": ("up_proj", "gate_proj")}
    if block.shared_norm:
        first = {"both": (*first["attention"], *first["ffn"])}
    elif block.attention is None or block.ffn is None:
        del first["attention" if block.attention is None else "ffn"]
    for names in first.values():  # what the first matrices of each sublayer read
        kept += training.count_input_bytes(N * C, shape, *names)
    sublayers = (block.attention is not None) + (block.ffn is not None)
    if shape.dropout and block.dropout:
        kept += sublayers * N * C * BITS
    working, gradient = N * C * a, 0
    if block.attention is not None:
        kept += count_attention_bytes(block, block.attention, shape, training)
    if block.ffn is not None:
        F = block.ffn.hidden_size
        kept += N * F * a * _count_ffn_tensors(block.ffn, shape)
        if not _is_relu_kept(block.ffn, shape):
            kept += training.count_input_bytes(N * F, shape, "down_proj")
        if shape.dropout and block.ffn.dropout:
            kept += N * C * BITS
        working += (1 + block.ffn.gated) * N * F * a
        if training.is_trained("up_proj"):
            gradient = C * F * (shape.master + (a if a < shape.master else 0))
    kept += training.count_adapter_bytes(shape, _list_sizes(block, C))
    if not shape.is_torch:
        working, gradient = _count_mlx_working(block, C, shape), 0
    if a < shape.master:
        kept += a * _count_matrix_weights(block, C)  # each product's weight, in the type of it
    return LayerBytes(kept, N * C * a, working, gradient, _count_products(block, C, shape))


def _count_products(block: BlockSpec, C: int, shape: Shape) -> int:
    """Count the outputs of a layer's products with weights, and of attention by a kernel."""
    N, a, width = shape.tokens, shape.activation, 0
    found = 0
    if block.attention is not None:
        one = block.attention
        H, K, D, E = one.num_heads, one.kv_heads, one.head_size, one.value_size
        width += H * D + K * (D + E) + C + one.output_gate * H * E
        if not is_written_out(one, shape):
            found += N * a * H * E + N * shape.master * H
    if block.ffn is not None:
        width += (1 + block.ffn.gated) * block.ffn.hidden_size + C
    return found + N * a * width


def _count_mlx_working(block: BlockSpec, C: int, shape: Shape) -> int:
    """What MLX has in work in a layer, as it runs ahead: fitted to measured peaks, see there."""
    N, wide = shape.tokens, shape.master
    working = 14 * wide * N * C
    if block.ffn is not None:
        working += 7 * shape.activation * N * block.ffn.hidden_size
    if block.attention is not None:
        scores = count_mlx_scores(block.attention, shape)
        is_whole = scores == N * block.attention.num_heads * shape.seq_len
        working += (3 if is_whole else 5) * wide * scores  # several blocks are in work at once
    return working


def _count_ffn_tensors(ffn: FfnSpec, shape: Shape) -> int:
    """Count the tensors of F elements a token that are kept beside the input of down_proj."""
    if ffn.limit is not None:
        return 6 if shape.is_torch else 10
    # torch has a kernel for each activation, which keeps its input; that of relu keeps its output.
    inner = {"silu": 3, "gelu": 4, "gelu_tanh": 6, "relu": 1, "relu2": 2}[ffn.function]
    own = 0 if shape.is_torch else inner - 1
    return (3 if ffn.gated else 1) + own  # gate, its activation and up, or up alone


def _is_relu_kept(ffn: FfnSpec, shape: Shape) -> bool:
    """Whether down_proj reads what torch's relu keeps anyway."""
    return shape.is_torch and ffn.function == "relu" and not ffn.gated


def _list_sizes(block: BlockSpec, C: int) -> Mapping[str, tuple[int, int]]:
    """The (inputs, outputs) of the matrices that may have adapters, by the last part of names."""
    sizes = {}
    if block.attention is not None:
        one = block.attention
        H, K, D, E = one.num_heads, one.kv_heads, one.head_size, one.value_size
        sizes = {"q_proj": (C, H * D), "k_proj": (C, K * D), "v_proj": (C, K * E)}
        sizes["o_proj"] = (H * E, C)
    if block.ffn is not None:
        F = block.ffn.hidden_size
        sizes |= {"up_proj": (C, F), "down_proj": (F, C)}
        sizes |= {"gate_proj": (C, F)} if block.ffn.gated else {}
    return sizes


def _count_matrix_weights(block: BlockSpec, C: int) -> int:
    count = 0
    if block.attention is not None:
        a = block.attention
        queries = a.num_heads * (a.head_size + a.value_size * (1 + a.output_gate))
        count += C * (queries + a.kv_heads * (a.head_size + a.value_size))
    if block.ffn is not None:
        count += C * block.ffn.hidden_size * (2 + block.ffn.gated)
    return count
