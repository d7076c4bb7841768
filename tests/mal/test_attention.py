"""The later keys of attention: what they mean, their canonical form, and what is refused."""

import pytest

from hermes import mal
from hermes.errors import MalError
from hermes.spec import DynamicScaling, LongRopeScaling, QkNorm, Rope, YarnScaling


def model(attention):
    return mal.loads(
        f"model m {{ hidden_size: 64  block {{ attention {{ num_heads: 4  {attention} }} }} }}"
    )


ONES = "[1, 1, 1, 1, 1, 1, 1, 1]"
LONGROPE = (
    "position_encoding: rope { scaling: longrope { short_factor: %s  long_factor: %s "
    "original_max_seq_len: 16 } }"
)
# Each text, the value it gives, and how it is written where that is one line.
MEANINGS = [
    ("qk_norm { over: each_head }", "qk_norm", QkNorm("each_head"), "qk_norm { over: each_head }"),
    (
        "qk_norm: { norm: layernorm, over: each_head, weight: true }",
        "qk_norm",
        QkNorm("each_head", "layernorm"),
        "qk_norm { over: each_head  norm: layernorm }",
    ),
    (
        "qk_norm { weight: false }",
        "qk_norm",
        QkNorm("head", "rmsnorm", weight=False),
        "qk_norm { weight: false }",
    ),
    ("qk_norm { over: head }", "qk_norm", "head", "qk_norm: head"),
    ("qk_norm { over: flat }", "qk_norm", "flat", "qk_norm: flat"),
    (
        "position_encoding: rope { scaling: yarn { truncate: false  attention_factor: 1.5 "
        "original_max_seq_len: 4096  factor: 4 } }",
        "position_encoding",
        Rope(scaling=YarnScaling(4.0, 4096, attention_factor=1.5, truncate=False)),
        None,
    ),
    (
        "position_encoding: rope { rotary_dim: 4  scaling: longrope { short_factor: [1, 1.25] "
        "long_factor: [2, 3e1,]  original_max_seq_len: 16 } }",
        "position_encoding",
        Rope(scaling=LongRopeScaling((1.0, 1.25), (2.0, 30.0), 16), rotary_dim=4),
        None,
    ),
    (
        "position_encoding: rope { scaling: dynamic { factor: 2  original_max_seq_len: 16 } }",
        "position_encoding",
        Rope(scaling=DynamicScaling(2.0, 16)),
        None,
    ),
    ("clip_qkv: 8", "clip_qkv", 8.0, "clip_qkv: 8"),
    ("clip_qkv: none", "clip_qkv", None, None),
    ("bias: o", "bias", "o", "bias: o"),
    ("v_head_dim: 24", "v_head_dim", 24, "v_head_dim: 24"),
    ("v_head_dim: none", "v_head_dim", None, None),
    ("sinks: true", "sinks", True, "sinks: true"),
    ("output_gate: true", "output_gate", True, "output_gate: true"),
]


@pytest.mark.parametrize(("text", "key", "value", "written"), MEANINGS)
def test_a_later_key_means_this_and_is_written_so(text, key, value, written):
    spec = model(text)
    assert getattr(spec.blocks[0].attention, key) == value
    form = mal.dumps(spec)
    assert written is None or f"num_heads: 4  {written} }}" in form
    assert mal.loads(form) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qk_norm: each_head", "qk_norm is 'each_head', which is written qk_norm { over"),
        ("qk_norm: 5", "qk_norm takes a word or { ... }, got 5"),
        ("qk_norm { over: all }", "over is 'all'; it must be one of head, flat, each_head"),
        ("qk_norm { norm: none }", "norm is 'none'; it must be one of rmsnorm, layernorm"),
        ("qk_norm { over: each_head  weight: false }", "leaves nothing of it; write over: head"),
        (LONGROPE % ("[1, 2]", "[1, 2]"), "have 2 numbers; 16 rotated elements of a head make 8"),
        (LONGROPE % (ONES, "[1]"), "long_factor has 1 number and short_factor 8"),
        (LONGROPE % (ONES, ONES.replace("1]", "0]")), "must have finite numbers above 0, got 0.0"),
        (LONGROPE % ("2", ONES), "short_factor takes a list of numbers, got 2"),
        (LONGROPE % ("[a]", ONES), "short_factor takes a number, got 'a'"),
        ("clip_qkv: 0", "clip_qkv must be above 0, got 0.0"),
        ("v_head_dim: 0", "v_head_dim must be from 1 to"),
        ("bias: k", "bias is 'k'; it must be one of none, qkv, all, o"),
        ("sinks: 2", "sinks takes true or false, got 2"),
        (
            (LONGROPE % (ONES, ONES)).replace("16", "1"),
            "original_max_seq_len must be above 1",
        ),
        (
            "position_encoding: rope { rotary_dim: 2  scaling: dynamic { factor: 2 "
            "original_max_seq_len: 16 } }",
            "dynamic scaling needs more than one pair",
        ),
    ],
)
def test_what_a_later_key_cannot_mean(text, message):
    with pytest.raises(MalError) as caught:
        model(text)
    assert message in str(caught.value)


def test_a_part_of_a_later_key_can_be_edited():
    spec = model("qk_norm { weight: false }")
    edited = mal.edit(spec, "block.attention.qk_norm.norm", "layernorm")
    assert edited.blocks[0].attention.qk_norm == QkNorm("head", "layernorm", weight=False)
    assert mal.edit(spec, "block.attention.qk_norm.weight", "true") == model("qk_norm: head")
