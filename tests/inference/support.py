"""Tiny models with loud weights, so that a text depends on all that was read."""

from functools import cache

from hermes.interface import Options, find_backend
from hermes.numerics.params import init_weights
from hermes.spec import (
    Alibi,
    AttentionSpec,
    BlockSpec,
    DynamicScaling,
    FfnSpec,
    Learned,
    ModelSpec,
    Rope,
)
from tests.waiting import wait_until

V = 37
ATTENTIONS = {
    "rope": AttentionSpec(num_heads=2, num_kv_heads=1),
    "window": AttentionSpec(num_heads=2, window_size=5),
    "alibi": AttentionSpec(num_heads=2, position_encoding=Alibi()),
    "learned": AttentionSpec(num_heads=2, position_encoding=Learned()),
    "dynamic": AttentionSpec(
        num_heads=2, position_encoding=Rope(scaling=DynamicScaling(4.0, 12))
    ),
}  # fmt: skip


def make_spec(kind="rope", max_seq_len=48):
    """Two layers: of a window, one with it and one without."""
    ffn = FfnSpec(hidden_dim=32)
    blocks = [BlockSpec(ATTENTIONS[kind], ffn)]
    if kind == "window":
        blocks.append(BlockSpec(ATTENTIONS["rope"], ffn))
    return ModelSpec(
        blocks=tuple(blocks), vocab_size=V, max_seq_len=max_seq_len, hidden_size=16, num_layers=2
    )


@cache
def make_model(backend, kind="rope", max_seq_len=48):
    """A model on the CPU, in float32 where the backend has it."""
    precision = "float64" if backend == "numpy" else "float32"
    spec = make_spec(kind, max_seq_len)
    loud = {
        name: array * 12 if array.ndim > 1 else array
        for name, array in init_weights(spec, 3).items()
    }
    return find_backend(backend).build(spec, loud, Options(device="cpu", precision=precision))


def hold_steps(engine, after, until):
    """Let an engine take so many steps, and the next ones once something holds.

    So that a text is under way, and not done, however long the test takes to do something to it.
    """
    plain, taken = engine.step, []

    def step():
        taken.append(1)
        if len(taken) > after:
            wait_until(until)
        return plain()

    engine.step = step


def is_cancelled(engine):
    """Whether a text that runs is to end at the next step."""
    return any(row.generation.cancel_asked for row in engine._active)
