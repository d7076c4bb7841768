"""What an attention keeps for its backward pass; see activations.py, also for the letters."""

from hermes.model_info.layer_shape import BITS, LayerTraining, Shape, count_norm_bytes
from hermes.numerics.query_blocks import count_block_scores
from hermes.spec import Alibi, AttentionSpec, BlockSpec

__all__ = ["count_attention_bytes", "count_mlx_scores", "is_unfused", "is_written_out"]

# Of the kernel for every form, and of the one for documents: hermes_torch/fused_attention.py.
LEAST_HEAD_SIZE = 16
MOST_HEAD_SIZE = 256


def is_written_out(attention: AttentionSpec, shape: Shape) -> bool:
    """Whether no kernel has what an attention asks for."""
    return _has_special_softmax(attention, shape) and not _has_kernel(attention, shape)


def is_unfused(attention: AttentionSpec, shape: Shape) -> bool:
    """Whether an attention keeps a tensor of every query and key: scores, weights or a mask."""
    if _has_kernel(attention, shape):
        return False
    if not shape.is_torch or is_written_out(attention, shape):
        return True
    return _is_plain_product(attention, shape) or _has_mask(attention, shape)


def _has_special_softmax(attention: AttentionSpec, shape: Shape) -> bool:
    """Whether what lies between scores and the product with values is more than a softmax."""
    drops = shape.dropout and attention.dropout
    return bool(attention.softcap is not None or attention.sinks or drops)


def _has_mask(attention: AttentionSpec, shape: Shape) -> bool:
    """Whether scores get more than the causal triangle: a mask, or distances."""
    window = attention.window_size
    has_window = window is not None and window < shape.seq_len
    is_alibi = isinstance(attention.position_encoding, Alibi)
    return has_window or shape.document_mask or is_alibi


def _has_kernel(attention: AttentionSpec, shape: Shape) -> bool:
    """Whether a kernel of CUDA has what an attention asks for, and keeps nothing of (T, T)."""
    if not shape.has_kernels:
        return False
    is_special = _has_special_softmax(attention, shape)
    if not (is_special or _has_mask(attention, shape)):
        return True
    D, E = attention.head_size, attention.value_size
    # Flash attention of variable lengths has masks alone, and is not compiled; FlexAttention is.
    has_mask_alone = not (is_special or isinstance(attention.position_encoding, Alibi))
    takes_size = D == E and D % 8 == 0 and D <= MOST_HEAD_SIZE
    if has_mask_alone and takes_size and shape.activation == 2:
        return True
    return shape.has_flex and min(D, E) >= LEAST_HEAD_SIZE


def count_attention_bytes(
    block: BlockSpec, attention: AttentionSpec, shape: Shape, training: LayerTraining
) -> int:
    """Count what an attention keeps, but for the input of its first products."""
    N, B, T, a, wide = (
        shape.tokens,
        shape.batch_size,
        shape.seq_len,
        shape.activation,
        shape.master,
    )
    H, K, D, E = attention.num_heads, attention.kv_heads, attention.head_size, attention.value_size
    kept = N * a * (H * D + K * D + K * E)  # queries, keys, values
    kept += training.count_input_bytes(N * H * E, shape, "o_proj")
    if shape.is_torch:
        kept += _count_joined_bytes(attention, shape, training)
    if attention.output_gate:
        kept += 2 * N * a * H * E
    if attention.clip_qkv is not None:
        kept += N * a * (H * D + K * D + K * E)
    if attention.qk_norm != "none":
        heads = (H + K) if attention.query_key_norm.over != "flat" else 2  # type: ignore[union-attr]
        size = (H + K) * D // heads
        kept += N * heads * count_norm_bytes(block.norm, size, shape, trained=training.norms)
    if shape.document_mask:
        kept += N * wide * attention.rotary_size  # sines and cosines of each row's own positions
    scores = B * H * T * T
    drops = bool(shape.dropout and attention.dropout)
    if not shape.is_torch:
        scores = count_mlx_scores(attention, shape)
        kept += scores * wide * (1 + (attention.softcap is not None))
        kept += scores * a  # probabilities, as the product with values reads them
        return kept + scores * BITS * drops
    if _has_kernel(attention, shape):
        return kept + _count_fused_bytes(attention, shape, training)
    if not is_written_out(attention, shape):
        if _is_plain_product(attention, shape):
            return kept + _count_plain_product(attention, shape)
        # CUDA's kernel that takes a mask wants as many heads of keys as of queries.
        expanded = N * a * (H - K) * (D + E) * shape.has_kernels
        return kept + expanded + _count_kernel_bytes(attention, shape, training)
    kept += N * a * (H - K) * (D + E)  # keys and values, repeated for each query head
    kept += (scores + N * H * attention.sinks) * wide + scores * wide * (
        attention.softcap is not None
    )
    # Probabilities as the product with values reads them, where that are others.
    kept += scores * (a * (a < wide) + (BITS + wide * (a == wide)) * drops)
    return kept + BITS * T * T * (B if shape.document_mask else 1)


def count_mlx_scores(attention: AttentionSpec, shape: Shape) -> int:
    """Count the scores that MLX computes: on a CPU, without dropout, those of causal blocks."""
    B, H, T = shape.batch_size, attention.num_heads, shape.seq_len
    drops = shape.dropout and attention.dropout
    if shape.device != "cpu" or shape.activation == 8 or not attention.causal or drops:
        return B * H * T * T
    return B * H * count_block_scores(T, attention.window_size)


def _is_plain_product(attention: AttentionSpec, shape: Shape) -> bool:
    """Whether torch's attention multiplies scores out, in float32: without a kernel.

    That of CPUs takes no bias of three axes, no bias with a gradient, and values of the keys' size
    alone; MPS has none with a gradient.
    """
    if shape.has_kernels:
        return False
    if shape.device == "mps":
        return True
    if attention.head_size != attention.value_size:
        return True
    positions = attention.position_encoding
    return isinstance(positions, Alibi) and (positions.learned or not shape.document_mask)


def _count_plain_product(attention: AttentionSpec, shape: Shape) -> int:
    """Count scores, and what queries, keys and values become, beside these themselves."""
    N, T, wide = shape.tokens, shape.seq_len, shape.master
    H, K, D, E = attention.num_heads, attention.kv_heads, attention.head_size, attention.value_size
    own = N * shape.activation * (H * D + K * D + K * E)  # counted, and not kept
    return N * wide * (2 * H * D + H * E) - own + N * H * T * wide


def _count_kernel_bytes(attention: AttentionSpec, shape: Shape, training: LayerTraining) -> int:
    """Count what torch's kernel keeps beside queries, keys and values: output, sums and mask."""
    N, B, T, a = shape.tokens, shape.batch_size, shape.seq_len, shape.activation
    H = attention.num_heads
    kept = _count_output_bytes(attention, shape, training)
    if isinstance(attention.position_encoding, Alibi):
        return kept + N * H * T * a
    if shape.document_mask:
        return kept + a * B * T * T
    masked = attention.window_size is not None and attention.window_size < T
    return kept + a * T * T * masked


def _count_output_bytes(attention: AttentionSpec, shape: Shape, training: LayerTraining) -> int:
    """Count a kernel's output, where o_proj does not read that itself, and its sums."""
    N, H = shape.tokens, attention.num_heads
    form = attention.query_key_norm
    is_own = bool(attention.rotary_size) and not (form and form.after_rope)
    reads = training.is_trained("o_proj") or training.is_adapted("o_proj")
    output = N * shape.activation * H * attention.value_size * (is_own or not reads)
    return N * shape.master * H + output


def _count_fused_bytes(attention: AttentionSpec, shape: Shape, training: LayerTraining) -> int:
    """Count what CUDA's kernels keep beside queries, keys and values: nothing of (T, T)."""
    N, a, wide = shape.tokens, shape.activation, shape.master
    H, K, D, E = attention.num_heads, attention.kv_heads, attention.head_size, attention.value_size
    drops = bool(shape.dropout and attention.dropout)
    if not (_has_mask(attention, shape) or _has_special_softmax(attention, shape)):
        # Its kernel wants as many heads of keys as of queries, but in low precision.
        expanded = N * a * (H - K) * (D + E) * (a == wide or D != E)
        return expanded + _count_output_bytes(attention, shape, training)
    sums = N * wide * H  # of a softmax; its greatest scores take as much
    if drops:  # two passes, the sums of both, their ratio, and a key for each row
        return N * a * H * (E + LEAST_HEAD_SIZE) + 6 * sums + 4 * shape.batch_size
    if attention.sinks:  # the output before it is scaled, and by what
        return N * a * H * E + 3 * sums
    return sums + _count_output_bytes(attention, shape, training)


def _count_joined_bytes(attention: AttentionSpec, shape: Shape, training: LayerTraining) -> int:
    """What stays of the one product that queries, keys and values are views of, besides those.

    A view keeps all of it: rotated or normalized queries and keys stay beside what they were made
    of, as long as attention reads values that are views.
    """
    if shape.activation == 8:
        return 0  # in float64 each has a product of its own
    if attention.clip_qkv is not None:
        return 0  # the clip's input, which is counted; what it gives are no views
    if training.is_adapted("q_proj", "k_proj", "v_proj"):
        return 0  # of an adapted matrix the product is another
    N, a = shape.tokens, shape.activation
    H, K, D, E = attention.num_heads, attention.kv_heads, attention.head_size, attention.value_size
    form = attention.query_key_norm
    norms_before = form is not None and not form.after_rope
    norm_reads_view = norms_before and a == shape.master  # the norm's input, which is counted
    if is_written_out(attention, shape):
        # Written out, attention reads copies of keys and values; of queries, too, of many rows.
        if norm_reads_view:
            return N * a * K * E
        reads_view = not attention.rotary_size and form is None and shape.batch_size == 1
        return N * a * K * (D + E) if reads_view else 0
    if _is_plain_product(attention, shape):
        # Queries and keys are scaled, so copied; the values of one sequence are a view.
        return N * a * (H + K) * D if H == K and a == shape.master and shape.batch_size == 1 else 0
    queries_are_views = not attention.rotary_size and form is None
    return 0 if queries_are_views or norm_reads_view else N * a * (H + K) * D
