"""What a model costs before anyone builds it: parameters, arithmetic, cache and memory.

Counted from the spec alone, exactly where the docstrings give a formula; activations depend on the
batch and the backend, and are not counted.
"""

from dataclasses import dataclass

from hermes.numerics.params import list_parameters
from hermes.spec import AttentionSpec, ModelSpec

__all__ = ["PARTS", "Cost", "compute_cost", "count_flops", "count_matmul_weights"]

PARTS = ("embeddings", "positions", "attention", "ffn", "norms", "head")
BYTES = {"float32": 4, "bfloat16": 2}
MASTER = 4  # bytes of a master weight, a gradient and each of AdamW's two moments: all float32


@dataclass(frozen=True)
class Cost:
    """A model's counts; the fields are the keys of `hermes info --json`.

    parameters: exact, a tied head counted once. flops_per_token: training and decoding, see
    `flops`. kv_bytes_per_token: what one more token adds to the cache of one sequence, by type.
    memory: bytes by type, of weights as they are held to decode; kv_cache of one sequence of
    max_seq_len; decoding, the two together; training, without activations.
    """

    parameters: int
    parameters_by_part: dict[str, int]
    flops_per_token: dict[str, int]
    kv_bytes_per_token: dict[str, int]
    memory: dict[str, dict[str, int]]


def compute_cost(spec: ModelSpec) -> Cost:
    """Count a model."""
    parts = dict.fromkeys(PARTS, 0)
    matrices = 0
    for tensor in list_parameters(spec).values():
        parts[tensor.part] += tensor.size
        matrices += tensor.size if len(tensor.shape) > 1 else 0
    total = sum(parts.values())
    kv = {name: size * _count_kv_elements(spec) for name, size in BYTES.items()}
    memory = {}
    for name, size in BYTES.items():
        weights = size * matrices + MASTER * (total - matrices)
        cache = kv[name] * spec.max_seq_len
        # Masters, gradients and two moments; below float32 also the matrices as they are computed.
        copies = size * count_matmul_weights(spec) if size < MASTER else 0
        memory[name] = {
            "weights": weights,
            "kv_cache": cache,
            "decoding": weights + cache,
            "training": 4 * MASTER * total + copies,
        }
    arithmetic = {
        "training": count_flops(spec, training=True),
        "decoding": count_flops(spec, training=False),
    }
    return Cost(total, parts, arithmetic, kv, memory)


def count_matmul_weights(spec: ModelSpec) -> int:
    """Weights that multiply each token: projections of every layer and the head, tied or not."""
    projections = sum(
        tensor.size
        for tensor in list_parameters(spec).values()
        if tensor.part in ("attention", "ffn") and len(tensor.shape) > 1
    )
    return projections + spec.vocab_size * spec.hidden_size


def count_flops(spec: ModelSpec, *, training: bool) -> int:
    """Floating-point operations per token, a multiply and an add counted as two.

    M weights multiply each token (`matmul_weights`), and in each layer H heads of size D score and
    mix the n keys that a token sees:
        forward  = 2 M + sum over layers of 4 H D n
        decoding = forward, n = min(T, W): the last token of a full context
        training = 3 forward, n = mean over a sequence of T = max_seq_len: (T + 1) / 2 if causal
    where W is the layer's window. The backward pass is twice the forward one; norms, softmax,
    activations and biases, below a hundredth, and recomputation are left out. Sources: Kaplan et
    al. 2020, arXiv:2001.08361, section 2.1; Chowdhery et al. 2022, arXiv:2204.02311, appendix B
    (which counts n = T).
    """
    total = 2 * count_matmul_weights(spec) * spec.max_seq_len
    for block in spec.layers:
        a = block.attention
        keys = (
            _count_keys_of_sequence(a, spec.max_seq_len)
            if training
            else _count_keys_of_last_token(a, spec)
        )
        total += 4 * a.num_heads * a.head_size * keys
    return round((3 if training else 1) * total / spec.max_seq_len)


def _count_keys_of_sequence(attention: AttentionSpec, length: int) -> int:
    """Keys that the tokens of a sequence see, summed: T n."""
    window = min(attention.window_size or length, length)
    before = window * (window + 1) // 2 + (length - window) * window
    # Without a causal mask a token sees as many after it as before, itself counted once.
    return before if attention.causal else 2 * before - length


def _count_keys_of_last_token(attention: AttentionSpec, spec: ModelSpec) -> int:
    """Keys that the last token of a full context sees, times T."""
    return min(attention.window_size or spec.max_seq_len, spec.max_seq_len) * spec.max_seq_len


def _count_kv_elements(spec: ModelSpec) -> int:
    """Elements of keys and values that one token leaves in the cache: 2 K D a layer."""
    return sum(2 * b.attention.kv_heads * b.attention.head_size for b in spec.layers)
