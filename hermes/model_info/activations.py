"""What a layer holds in memory while a step trains it, from its spec alone, for each backend.

The counts are those of the backends' own graphs. For torch they are exact, tensor by tensor: what
autograd saves (tests/model_info/test_activations.py counts it on real learners). MLX has no such
list; its counts are of what the derivatives of its functions read.

Letters: N tokens of a micro-batch, B sequences of T tokens, C hidden size, H query heads, K
key/value heads, D head size, E that of values, F feed-forward size; a the bytes of an activation.
"""

from dataclasses import dataclass

from hermes.numerics.params import list_norms
from hermes.spec import Alibi, AttentionSpec, BlockSpec, LayerNorm, NoNorm
from hermes.spec.block import FfnSpec
from hermes.spec.parts import Norm

__all__ = ["BITS", "BYTES_OF", "LayerBytes", "Shape", "count_layer_bytes", "count_norm_bytes"]

BYTES_OF = {"float64": 8, "float32": 4, "tf32": 4, "bfloat16": 2, "float16": 2}
BITS = 1  # bytes of an element of a boolean mask


@dataclass(frozen=True)
class Shape:
    """A micro-batch and what computes it.

    backend: 'torch' or 'mlx'. device: 'cpu', or what else computes. activation, master: bytes of an
    element of the activations, and of weights and statistics.
    """

    batch_size: int
    seq_len: int
    backend: str = "torch"
    device: str = "cpu"
    activation: int = 4
    master: int = 4
    document_mask: bool = False
    dropout: bool = True

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.batch_size * self.seq_len

    @property
    def is_torch(self) -> bool:
        """Whether torch computes it."""
        return self.backend == "torch"


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of a layer.

    kept: from its forward pass to its backward pass. entry: of its input, which alone is kept where
    the layer is recomputed. working: what its backward pass needs besides. products: of the outputs
    of its products and of attention, which selective checkpointing keeps with the input.
    """

    kept: int
    entry: int
    working: int
    products: int = 0


def count_layer_bytes(block: BlockSpec, hidden_size: int, shape: Shape) -> LayerBytes:
    """Count what a layer keeps for its backward pass, and what that needs besides."""
    N, C, a = shape.tokens, hidden_size, shape.activation
    norms = list_norms(block)
    kept = len(norms) * N * count_norm_bytes(block.norm, C, shape)
    if block.parallel and {"attention_in", "ffn_in"} <= norms.keys() and a == shape.master:
        kept -= N * C * a  # both norms read the same input
    sublayers = (block.attention is not None) + (block.ffn is not None)
    inputs = 1 if block.shared_norm and sublayers == 2 else sublayers
    kept += inputs * N * C * a  # what the first matrices of each sublayer read
    if shape.dropout and block.dropout:
        kept += sublayers * N * C * BITS
    working = N * C * a
    if block.attention is not None:
        kept += _count_attention_bytes(block, block.attention, shape)
    if block.ffn is not None:
        F = block.ffn.hidden_size
        kept += N * F * a * _count_ffn_tensors(block.ffn, shape)
        if shape.dropout and block.ffn.dropout:
            kept += N * C * BITS
        working += (1 + block.ffn.gated) * N * F * a + C * F * (
            shape.master + (a if a < shape.master else 0)
        )
    if not shape.is_torch:
        working = _count_mlx_working(block, C, shape)
    if a < shape.master:
        kept += a * _count_matrix_weights(block, C)  # each product's weight, in the type of it
    return LayerBytes(kept, N * C * a, working, _count_products(block, C, shape))


def _count_products(block: BlockSpec, C: int, shape: Shape) -> int:
    """Count the outputs of a layer's products with weights, and of attention by a kernel."""
    N, a, width = shape.tokens, shape.activation, 0
    found = 0
    if block.attention is not None:
        one = block.attention
        H, K, D, E = one.num_heads, one.kv_heads, one.head_size, one.value_size
        width += H * D + K * (D + E) + C + one.output_gate * H * E
        written_out = one.softcap is not None or one.sinks or (shape.dropout and one.dropout)
        if not written_out:
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
        working += 3 * wide * N * block.attention.num_heads * shape.seq_len
    return working


def count_norm_bytes(norm: Norm, size: int, shape: Shape) -> int:
    """Count what a norm keeps for each vector of this size: its input and statistics."""
    wide = shape.master
    match norm:
        case NoNorm():
            return 0
        case LayerNorm():
            return wide * (size + 2 * shape.is_torch)
    # On the CPU, torch's RMSNorm is written out: it keeps the normalized vector, too.
    written_out = shape.is_torch and shape.device == "cpu"
    return wide * (size * (1 + written_out) + shape.is_torch)


def _count_attention_bytes(block: BlockSpec, attention: AttentionSpec, shape: Shape) -> int:
    N, B, T, a, wide = (
        shape.tokens,
        shape.batch_size,
        shape.seq_len,
        shape.activation,
        shape.master,
    )
    H, K, D, E = attention.num_heads, attention.kv_heads, attention.head_size, attention.value_size
    kept = N * a * (H * D + K * D + K * E + H * E)  # queries, keys, values, o_proj's input
    if shape.is_torch:
        kept += _count_joined_bytes(attention, shape)
    if attention.output_gate:
        kept += 2 * N * a * H * E
    if attention.clip_qkv is not None:
        kept += N * a * (H * D + K * D + K * E)
    if attention.qk_norm != "none":
        heads = (H + K) if attention.query_key_norm.over != "flat" else 2  # type: ignore[union-attr]
        size = (H + K) * D // heads
        kept += N * heads * count_norm_bytes(block.norm, size, shape)
    scores = B * H * T * T
    drops = bool(shape.dropout and attention.dropout)
    has_bias = isinstance(attention.position_encoding, Alibi)
    written_out = attention.softcap is not None or attention.sinks or drops
    if shape.is_torch and not written_out and not has_bias:
        masked = attention.window_size is not None and attention.window_size < T
        form = attention.query_key_norm
        if attention.rotary_size and not (form and form.after_rope):
            kept += N * a * H * E  # the kernel's output; else o_proj reads that itself
        kept += N * wide * H  # and its sums
        if shape.document_mask:
            kept += a * B * T * T
        elif masked or not attention.causal:
            kept += a * T * T * masked
        return kept
    if shape.is_torch:
        if not written_out:
            return kept + scores * a + N * a * (H - K) * (D + E)
        kept += N * a * (H - K) * (D + E)  # keys and values, repeated for each query head
        kept += scores * wide * (1 + (attention.softcap is not None))
    else:
        kept += scores * wide * (1 + (attention.softcap is not None))
        kept += scores * a  # probabilities, as the product with values reads them
        return kept + scores * BITS * drops
    kept += scores * a * (a < wide) + scores * (BITS + wide) * drops
    return kept + BITS * T * T * (B if shape.document_mask else 1)


def _count_joined_bytes(attention: AttentionSpec, shape: Shape) -> int:
    """What stays of the one product that queries, keys and values are views of, besides those.

    A view keeps all of it: rotated or normalized queries and keys stay beside what they were made
    of, as long as attention reads values that are views.
    """
    if shape.activation == 8:
        return 0  # in float64 each has a product of its own
    if attention.clip_qkv is not None:
        return 0  # the clip's input, which is counted; what it gives are no views
    N, a = shape.tokens, shape.activation
    H, K, D, E = attention.num_heads, attention.kv_heads, attention.head_size, attention.value_size
    form = attention.query_key_norm
    norms_before = form is not None and not form.after_rope
    norm_reads_view = norms_before and a == shape.master  # the norm's input, which is counted
    drops = bool(shape.dropout and attention.dropout)
    if attention.softcap is not None or attention.sinks or drops:
        # Written out, attention reads copies of keys and values; of queries, too, of many rows.
        if norm_reads_view:
            return N * a * K * E
        reads_view = not attention.rotary_size and form is None and shape.batch_size == 1
        return N * a * K * (D + E) if reads_view else 0
    queries_are_views = not attention.rotary_size and form is None
    return 0 if queries_are_views or norm_reads_view else N * a * (H + K) * D


def _count_ffn_tensors(ffn: FfnSpec, shape: Shape) -> int:
    """Count the tensors of F elements a token that the feed-forward network keeps."""
    if ffn.limit is not None:
        return 9 if shape.is_torch else 11
    function = ffn.function
    # torch has a kernel for each activation, which keeps its input; that of relu keeps its output.
    inner = {"silu": 3, "gelu": 4, "gelu_tanh": 6, "relu": 1, "relu2": 2}[function]
    own = 0 if shape.is_torch else inner - 1
    if ffn.gated:
        return 4 + own  # gate, its activation, up, and their product
    return (1 if function == "relu" and shape.is_torch else 2) + own


def _count_matrix_weights(block: BlockSpec, C: int) -> int:
    count = 0
    if block.attention is not None:
        a = block.attention
        queries = a.num_heads * (a.head_size + a.value_size * (1 + a.output_gate))
        count += C * (queries + a.kv_heads * (a.head_size + a.value_size))
    if block.ffn is not None:
        count += C * block.ffn.hidden_size * (2 + block.ffn.gated)
    return count
