"""A model small enough to count by hand."""

from hermes import mal

V, C, L, T, F = 100, 16, 3, 8, 24
PROJECTIONS = L * (16 * C + 8 * C + 8 * C + C * 16 + 3 * F * C)
HEAD = V * C


def model(fields="", attention="", block=""):
    return mal.loads(
        f"model m {{ vocab_size: {V}  max_seq_len: {T}  hidden_size: {C}  num_layers: {L} {fields} "
        f"block {{ attention {{ num_heads: 4  num_kv_heads: 2 {attention} }} "
        f"ffn {{ hidden_dim: {F} }} {block} }} }}"
    )
