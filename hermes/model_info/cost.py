"""The cost of a model, from its spec alone: parameters, FLOPs, KV cache and memory.

Counts are exact, up to what a docstring says is left out. Activations depend on the batch and the
backend and are not counted.
"""

from dataclasses import dataclass

from hermes.numerics.params import list_parameters
from hermes.spec import AttentionSpec, ModelSpec

__all__ = [
    "BYTES",
    "PARTS",
    "Cost",
    "compute_cost",
    "count_flops",
    "count_keys_of_sequence",
    "count_matmul_weights",
    "find_cache_type",
]

PARTS = ("embeddings", "positions", "attention", "ffn", "norms", "head")
BYTES = {"float32": 4, "bfloat16": 2}
MASTER = 4  # bytes of each master weight, gradient and moment, which are all float32


@dataclass(frozen=True)
class Cost:
    """The cost of a model; the fields are keys of `hermes info --json`.

    parameters: exact, a tied head counted once. flops_per_token: 'training' and 'decoding', see
    `count_flops`. kv_bytes_per_token: bytes that a token adds to the KV cache of a sequence, by
    dtype. memory: bytes by dtype: 'weights' when decoding; 'kv_cache' of one sequence of
    max_seq_len; 'decoding', the sum of both; 'training', without activations.
    """

    parameters: int
    parameters_by_part: dict[str, int]
    flops_per_token: dict[str, int]
    kv_bytes_per_token: dict[str, int]
    memory: dict[str, dict[str, int]]


def compute_cost(spec: ModelSpec) -> Cost:
    """Compute the cost of a model."""
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
        # Master weights, gradients and two moments; below float32 also the matrices in that dtype.
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


def find_cache_type(backend: str, device: str, precision: str) -> str:
    """The type of keys and values when a model decodes: on a CPU torch keeps no 16 bits.

    float64's count as float32.
    """
    is_wide = (backend, device) == ("torch", "cpu")
    return "float32" if is_wide or precision not in ("bfloat16", "float16") else "bfloat16"


def count_matmul_weights(spec: ModelSpec) -> int:
    """Count the weights that multiply each token: all projections, and the head, tied or not."""
    projections = sum(
        tensor.size
        for tensor in list_parameters(spec).values()
        if tensor.part in ("attention", "ffn") and len(tensor.shape) > 1
    )
    return projections + spec.vocab_size * spec.hidden_size


def count_flops(spec: ModelSpec, *, training: bool, length: int | None = None) -> int:
    """Count floating-point operations per token, a multiply and an add as two.

    M weights multiply each token (`count_matmul_weights`), and in each layer H heads compute scores
    with n keys of size D and the weighted sum of n values of size E:
        forward  = 2 M + sum over layers of 2 H (D + E) n
        decoding = forward, n = min(T, W): the last token of a full context
        training = 3 forward, n = mean over a sequence of T = max_seq_len: (T + 1) / 2 if causal
    where W is the layer's window. The backward pass costs twice the forward pass. Left out are
    norms, softmax, activations and biases, together below 1 %, and recomputation. length: T, None
    for max_seq_len. Sources: Kaplan et al. 2020, arXiv:2001.08361, section 2.1; Chowdhery et al.
    2022, arXiv:2204.02311, appendix B (which counts n = T).
    """
    T = spec.max_seq_len if length is None else length
    total = 2 * count_matmul_weights(spec) * T
    for a in spec.attentions:
        count = count_keys_of_sequence if training else _count_keys_of_last_token
        keys = count(a, T)
        total += 2 * a.num_heads * (a.head_size + a.value_size) * keys
    return round((3 if training else 1) * total / T)


def count_keys_of_sequence(attention: AttentionSpec, length: int) -> int:
    """Count the keys that all tokens of a sequence attend to: T n, summed over tokens."""
    window = min(attention.window_size or length, length)
    before = window * (window + 1) // 2 + (length - window) * window
    # Without a causal mask the keys after a token mirror those before; its own counts once.
    return before if attention.causal else 2 * before - length


def _count_keys_of_last_token(attention: AttentionSpec, length: int) -> int:
    """Count the keys that the last token of a full context attends to, times T."""
    return min(attention.window_size or length, length) * length


def _count_kv_elements(spec: ModelSpec) -> int:
    """Count the elements that a token adds to the KV cache: K (D + E) for each attention."""
    return sum(a.kv_heads * (a.head_size + a.value_size) for a in spec.attentions)
