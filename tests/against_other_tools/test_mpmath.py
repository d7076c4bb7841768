"""The oracle of all backends against arithmetic of 50 digits, on models of a few numbers."""

import dataclasses

import numpy as np
import pytest

from hermes.interface import Options, find_backend
from hermes.spec import (
    Alibi,
    DynamicScaling,
    EmbeddingsSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    NoNorm,
    NoPositions,
    OutputSpec,
    QkNorm,
    RMSNorm,
    Rope,
    YarnScaling,
)
from tests.interop.models import block, change, hot_weights, model

exact = pytest.importorskip(
    "tests.against_other_tools.exact", reason="pip install 'hermes-llm[test]'"
)

BOUND = 1e-13  # float64 rounds at 1e-16, some hundred times in a row
TOKENS = np.array([[3, 0, 4, 4, 1]])
SMALL = model(
    block({"head_dim": 8}, {"hidden_dim": 6}),
    vocab_size=5,
    max_seq_len=6,
    hidden_size=4,
    num_layers=2,
)
GEMMA_NORM = RMSNorm(1e-6, unit_offset=True)


def rope(*args):
    return {"position_encoding": Rope(*args)}


SHORT, LONG = (1.0, 1.25, 1.5, 3.0), (2.0, 3.0, 5.0, 9.0)
CASES = {
    "llama": SMALL,
    "theta": change(SMALL, attention=rope(17.0)),
    "linear": change(SMALL, attention=rope(1e4, LinearScaling(3.0))),
    "llama3": change(SMALL, attention=rope(50.0, Llama3Scaling(8.0, 1.0, 4.0, 30))),
    "yarn": change(SMALL, attention=rope(20.0, YarnScaling(4.0, 64, 4.0, 1.0))),
    "part of the head turns": change(SMALL, attention=rope(1e4, None, 4)),
    "learned positions": change(SMALL, attention={"position_encoding": Learned()}),
    "no positions": change(SMALL, attention={"position_encoding": NoPositions()}),
    "alibi": change(SMALL, attention={"position_encoding": Alibi()}),
    "norm after rope": change(
        SMALL, attention={"qk_norm": QkNorm("each_head", "layernorm", bias=True, after_rope=True)}
    ),
    "layernorm of 1 + w": change(SMALL, norm=LayerNorm(unit_offset=True)),
    "scaled alibi": change(SMALL, attention={"position_encoding": Alibi("fixed", 0.3)}),
    "learned alibi": change(SMALL, attention={"position_encoding": Alibi("learned")}),
    "window": change(SMALL, attention={"window_size": 2}),
    "both ways": change(SMALL, attention={"causal": False, "window_size": 3}),
    "soft caps": dataclasses.replace(
        change(SMALL, attention={"softcap": 1.5, "scale": 0.4}), output=OutputSpec(softcap=2.0)
    ),
    "qk_norm head": change(SMALL, attention={"qk_norm": "head"}, norm=GEMMA_NORM),
    "qk_norm flat": change(SMALL, attention={"qk_norm": "flat"}),
    "qk_norm each head": change(
        SMALL, attention={"qk_norm": QkNorm("each_head", "layernorm")}, norm=LayerNorm(1e-3)
    ),
    "qk_norm flat layernorm": change(SMALL, attention={"qk_norm": QkNorm("flat", "layernorm")}),
    "qk_norm without weight": change(
        SMALL, attention={"qk_norm": QkNorm("head", weight=False)}, norm=GEMMA_NORM
    ),
    "yarn smooth": change(
        SMALL,
        attention=rope(20.0, YarnScaling(4.0, 64, 4.0, 1.0, attention_factor=1.3, truncate=False)),
    ),
    "longrope": change(SMALL, attention=rope(50.0, LongRopeScaling(SHORT, LONG, 4))),
    "longrope short": change(SMALL, attention=rope(50.0, LongRopeScaling(SHORT, LONG, 5))),
    "dynamic": change(SMALL, attention=rope(50.0, DynamicScaling(3.0, 3))),
    "clipped": change(SMALL, attention={"clip_qkv": 0.7, "bias": "qkv", "qk_norm": "flat"}),
    "small values": change(SMALL, attention={"v_head_dim": 3, "bias": "o"}),
    "sinks": change(SMALL, attention={"sinks": True, "window_size": 2, "softcap": 2.0}),
    "output gate": change(SMALL, attention={"output_gate": True, "bias": "all", "v_head_dim": 10}),
    "biases": dataclasses.replace(
        change(SMALL, attention={"bias": "all"}, ffn={"bias": True}), output=OutputSpec(bias=True)
    ),
    "layernorm": change(SMALL, norm=LayerNorm()),
    "layernorm without bias": change(SMALL, norm=LayerNorm(bias=False)),
    "logits scale": dataclasses.replace(SMALL, output=OutputSpec(scale=0.3, softcap=2.0)),
    "shared norm": change(SMALL, parallel=True, shared_norm=True, norm=LayerNorm()),
    "norm of embeddings": dataclasses.replace(
        change(SMALL, attention={"position_encoding": Learned()}),
        embeddings=EmbeddingsSpec(scale=0.5, norm=LayerNorm(1e-3)),
    ),
    "clamped swiglu": change(SMALL, ffn={"limit": 0.5, "alpha": 1.702, "bias": True}),
    **{
        f"without {part} {position}": dataclasses.replace(
            SMALL,
            blocks=(
                dataclasses.replace(SMALL.blocks[0], norm_position=position, **{part: None}),
                SMALL.blocks[0],
            ),
        )
        for part in ("attention", "ffn")
        for position in ("pre", "post", "sandwich")
    },
    "residual scale": change(SMALL, residual_scale=0.22),
    "residual scale post": change(SMALL, residual_scale=3.0, norm_position="post"),
    "layernorm without weight": change(SMALL, norm=LayerNorm(weight=False)),
    "rmsnorm without weight": change(SMALL, norm=RMSNorm(weight=False)),
    "no norm": change(SMALL, norm=NoNorm()),
    "tied and scaled": dataclasses.replace(
        SMALL, embeddings=EmbeddingsSpec(tie_weights=True, scale=2.0)
    ),
    **{
        f"{function}{' gated' if gate else ''}": change(
            SMALL, ffn={"activation": function, "gate": gate}
        )
        for function in ("silu", "gelu", "gelu_tanh", "relu", "relu2")
        for gate in (True, False)
    },
    **{
        f"{position}{' parallel' if parallel else ''}{'' if residual else ' no residual'}": change(
            SMALL, norm_position=position, parallel=parallel, residual=residual
        )
        for position in ("pre", "post", "output", "sandwich")
        for parallel in (False, True)
        for residual in (True, False)
        if not (parallel and position == "post")
    },
}


@pytest.mark.parametrize("spec", CASES.values(), ids=CASES.keys())
def test_the_oracle_agrees_with_50_digits(spec):
    weights = hot_weights(spec)
    ours = find_backend("numpy").build(spec, weights, Options(precision="float64")).logits(TOKENS)
    assert exact.error(ours[0], exact.logits(spec, weights, TOKENS[0])) < BOUND


def test_the_bound_is_tight_enough_to_see_one_constant_in_its_last_digits():
    wrong = change(SMALL, norm=RMSNorm(1e-5 * (1 + 1e-7)))
    weights = hot_weights(SMALL)
    ours = find_backend("numpy").build(wrong, weights, Options(precision="float64")).logits(TOKENS)
    assert exact.error(ours[0], exact.logits(SMALL, weights, TOKENS[0])) > BOUND
