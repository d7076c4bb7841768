"""The later keys of attention: what they mean, their canonical form, and what is refused."""

import pytest

from hermes import mal
from hermes.errors import MalError
from hermes.spec import QkNorm


def model(attention):
    return mal.loads(
        f"model m {{ hidden_size: 64  block {{ attention {{ num_heads: 4  {attention} }} }} }}"
    )


# Each text, the value it gives, and how it is written.
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
]


@pytest.mark.parametrize(("text", "key", "value", "written"), MEANINGS)
def test_a_later_key_means_this_and_is_written_so(text, key, value, written):
    spec = model(text)
    assert getattr(spec.blocks[0].attention, key) == value
    form = mal.dumps(spec)
    assert f"num_heads: 4  {written} }}" in form
    assert mal.loads(form) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qk_norm: each_head", "qk_norm is 'each_head', which is written qk_norm { over"),
        ("qk_norm: 5", "qk_norm takes a word or { ... }, got 5"),
        ("qk_norm { over: all }", "over is 'all'; it must be one of head, flat, each_head"),
        ("qk_norm { norm: none }", "norm is 'none'; it must be one of rmsnorm, layernorm"),
        ("qk_norm { over: each_head  weight: false }", "leaves nothing of it; write over: head"),
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
