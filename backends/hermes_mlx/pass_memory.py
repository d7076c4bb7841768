"""What a KV cache and a forward pass take on a CPU, looked at before MLX takes it.

MLX on a CPU does not look whether the system gave it memory: beyond `ulimit -v` or `ulimit -d` it
writes to address 0, which ends the process by SIGSEGV, without a word (measured with mlx 0.32.4).
So what is about to be made is compared with what the limits leave. Without such limits nothing is
counted.

Letters: B rows, T new tokens of each, S keys, C hidden size, H query heads, K key/value heads,
D head size, E that of values, F feed-forward size, V vocabulary; a the bytes of an activation.
"""

from collections.abc import Callable

import mlx.core as mx

from hermes.formatting import format_with_unit
from hermes.numerics.row_layout import count_key_numbers
from hermes.process_limits import list_process_limits
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["count_joined_bytes", "count_pass_bytes", "require_room"]

# For what takes memory beside arrays: stacks and arenas of threads, buffers of BLAS.
MARGIN = 32 << 20
# Arrays of each size that are there at once, fitted to peaks of forward passes (CPU; see
# tests/backends/mlx/test_pass_memory.py): MLX runs up to ten operations ahead of their results.
HIDDEN, HEADS, SCORES, INNER = 10, 4, 6, 6
LOGITS, SCORED = 3, 4  # where logits are all that is wanted, and where log-probabilities are
CHUNKS = 3  # of logits at once, where these are computed by chunk
WIDE = 4  # bytes of scores and norms, or those of an activation where these are more
EXACT = 3  # float64's functions are written out, which takes so many times as much


def require_room(device: mx.Device, count: Callable[[], int]) -> None:
    """Raise MemoryError where arrays of so many bytes do not fit the limits of this process.

    count: called where there are limits, and memory of the device is bounded by them.
    """
    if device != mx.Device(mx.cpu) or not (limits := list_process_limits()):
        return
    size = count()
    for limit in limits:
        if size + MARGIN > limit.left:
            needed, left = (format_with_unit(one, "B") for one in (size, limit.left))
            raise MemoryError(f"MLX needs {needed} more, and {limit.name} leaves {left}")


def count_pass_bytes(
    spec: ModelSpec, B: int, T: int, S: int, a: int, num_logits: int, *, scores: bool = False
) -> int:
    """Count the most bytes that a forward pass has at once beside weights and cache.

    num_logits: how many tokens have logits, at once or in a chunk. scores: targets get
    log-probabilities, by chunk.
    """
    C, V = spec.hidden_size, spec.vocab_size
    found = max(_count_layer(block, C, B, T, S, a) for block in spec.layers)
    logits = SCORED * min(CHUNKS * num_logits, B * T) if scores else LOGITS * num_logits
    found += logits * max(a, WIDE) * V
    if a < WIDE:  # matrices are multiplied in float32, a copy at a time
        found += WIDE * V * C + 2 * count_joined_bytes(spec, WIDE)
    return EXACT * found if a > WIDE else found


def count_joined_bytes(spec: ModelSpec, a: int) -> int:
    """Count the bytes of the largest group of matrices that is held twice while it is joined."""
    widths = [0]
    for block in spec.layers:
        if block.attention is not None:
            one = block.attention
            widths.append(one.num_heads * one.head_size + count_key_numbers(one))
        if block.ffn is not None:
            widths.append((1 + block.ffn.gated) * block.ffn.hidden_size)
    return a * spec.hidden_size * max(widths)


def _count_layer(block: BlockSpec, C: int, B: int, T: int, S: int, a: int) -> int:
    wide = max(a, WIDE)
    N = B * T
    found = HIDDEN * wide * N * C
    if block.attention is not None:
        one = block.attention
        H, numbers = one.num_heads, count_key_numbers(one)
        found += HEADS * a * N * (H * (one.head_size + one.value_size) + numbers)
        found += SCORES * wide * B * H * T * S + 2 * a * B * S * numbers
    if block.ffn is not None:
        found += INNER * wide * N * block.ffn.hidden_size
    return found
