"""Specs as Python makes them: what they refuse, and what they fill in."""

import dataclasses

import pytest

from hermes.errors import MalError, SpecError
from hermes.spec import (
    Alibi,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    Llama3Scaling,
    ModelSpec,
    NoNorm,
    OutputSpec,
    RMSNorm,
    Rope,
    YarnScaling,
    list_field_types,
)

FOUR = AttentionSpec(num_heads=4)


def model(attention=FOUR, **fields):
    return ModelSpec(**{"blocks": (BlockSpec(attention),), "hidden_size": 64, **fields})


@pytest.mark.parametrize(
    ("make", "message", "path"),
    [
        (lambda: AttentionSpec("8"), "num_heads must be an integer, got '8'", "num_heads"),
        (lambda: AttentionSpec(True), "num_heads must be an integer, got True", "num_heads"),
        (lambda: AttentionSpec(8.0), "num_heads must be an integer, got 8.0", "num_heads"),
        (lambda: AttentionSpec(0), "num_heads must be from 1 to 2147483647, got 0", "num_heads"),
        (
            lambda: AttentionSpec(2**31),
            "num_heads must be from 1 to 2147483647, got 2147483648",
            "num_heads",
        ),
        (
            lambda: AttentionSpec(8, num_kv_heads=3),
            "num_kv_heads is 3, which does not divide num_heads 8",
            "num_kv_heads",
        ),
        (lambda: AttentionSpec(8, causal=1), "causal must be true or false, got 1", "causal"),
        (
            lambda: AttentionSpec(8, bias="both"),
            "bias is 'both'; it must be one of none, qkv, all, o",
            "bias",
        ),
        (
            lambda: AttentionSpec(8, position_encoding="rope"),
            "position_encoding must be Rope or Learned or Alibi or NoPositions, got 'rope'",
            "position_encoding",
        ),
        (lambda: AttentionSpec(8, softcap=0), "softcap must be above 0, got 0.0", "softcap"),
        (
            lambda: AttentionSpec(8, name="a b"),
            "name is 'a b'; it must be a letter or _, then letters, digits, _ or -, 100 at most",
            "name",
        ),
        (lambda: Rope(theta=float("nan")), "theta must be finite, got nan", "theta"),
        (lambda: Rope(theta=10**400), "theta must be finite, got inf", "theta"),
        (lambda: Rope(rotary_dim=7), "rotary_dim must be even, got 7", "rotary_dim"),
        (
            lambda: Llama3Scaling(8, 4, 1, 8192),
            "high_freq_factor 1.0 must be above low_freq_factor 4.0",
            "high_freq_factor",
        ),
        (
            lambda: YarnScaling(8, 8192, beta_fast=1),
            "beta_fast 1.0 must be above beta_slow 1.0",
            "beta_fast",
        ),
        (
            lambda: Alibi("steep"),
            "slopes is 'steep'; it must be one of fixed, learned",
            "slopes",
        ),
        (lambda: RMSNorm(eps=0), "eps must be above 0, got 0.0", "eps"),
        (lambda: LayerNorm(eps="small"), "eps must be a number, got 'small'", "eps"),
        (
            lambda: RMSNorm(unit_offset=True, weight=False),
            "unit_offset adds 1 to a weight, which a norm with weight: false does not have",
            "unit_offset",
        ),
        (
            lambda: LayerNorm(bias=True, weight=False),
            "a layernorm with weight: false has no bias; leave bias out",
            "bias",
        ),
        (
            lambda: FfnSpec(dropout=1),
            "dropout must be at least 0 and below 1, got 1.0",
            "dropout",
        ),
        (
            lambda: FfnSpec(activation="swigl"),
            "activation is 'swigl'; it must be one of swiglu, geglu, gelu, gelu_tanh, silu, relu, "
            "relu2; did you mean 'swiglu'?",
            "activation",
        ),
        (
            lambda: FfnSpec(activation="geglu", gate=False),
            "geglu is gated by definition; write activation: gelu for the form without a gate",
            "gate",
        ),
        (
            lambda: FfnSpec(activation="geglu", limit=7, alpha=1.702),
            "limit is of the clamped swiglu; it has no meaning with activation geglu",
            "limit",
        ),
        (
            lambda: FfnSpec(activation="silu", alpha=1.702),
            "alpha is of the clamped swiglu; it has no meaning with activation silu",
            "alpha",
        ),
        (
            lambda: FfnSpec(limit=7),
            "the clamped swiglu takes limit and alpha together; gpt-oss has limit: 7.0 and "
            "alpha: 1.702",
            "limit",
        ),
        (lambda: FfnSpec(limit=0, alpha=1), "limit must be above 0, got 0.0", "limit"),
        (
            lambda: BlockSpec(FOUR, parallel=True, norm_position="post"),
            "a parallel block has no place for norm_position post, which norms the sum after each "
            "sublayer; use pre, output or sandwich",
            "norm_position",
        ),
        (
            lambda: BlockSpec(None, None),
            "a block needs attention, ffn or both; both are none",
            "attention",
        ),
        (
            lambda: BlockSpec(FOUR, None, parallel=True),
            "a parallel block has attention and ffn, and here ffn is none",
            "parallel",
        ),
        (
            lambda: BlockSpec(None, parallel=True),
            "a parallel block has attention and ffn, and here attention is none",
            "parallel",
        ),
        (
            lambda: BlockSpec(FOUR, shared_norm=True),
            "shared_norm needs parallel: true and norm_position pre, where attention and ffn read "
            "the same x",
            "shared_norm",
        ),
        (
            lambda: BlockSpec(FOUR, parallel=True, norm_position="sandwich", shared_norm=True),
            "shared_norm needs parallel: true and norm_position pre, where attention and ffn read "
            "the same x",
            "shared_norm",
        ),
        (
            lambda: BlockSpec(FOUR, residual_scale=-1),
            "residual_scale must be above 0, got -1.0",
            "residual_scale",
        ),
        (
            lambda: EmbeddingsSpec(norm=NoNorm()),
            "norm must be RMSNorm or LayerNorm, got NoNorm()",
            "norm",
        ),
        (lambda: OutputSpec(scale=0), "scale must be above 0, got 0.0", "scale"),
        (
            lambda: EmbeddingsSpec(scale=float("inf")),
            "scale must be finite, got inf",
            "scale",
        ),
        (lambda: model(num_layers=10_001), "num_layers must be at most 10000, got 10001", None),
        (lambda: model(blocks=()), "blocks must be a tuple of at least one BlockSpec", "blocks"),
        (lambda: model(blocks=(FOUR,)), "blocks must be a tuple of at least one", "blocks"),
        (lambda: model(name=""), "a model needs a name", "name"),
        (
            lambda: model(description="a\x1b[2J"),
            "description has the control character '\\x1b' in it",
            "description",
        ),
        (
            lambda: model(num_layers=1, blocks=(BlockSpec(FOUR),) * 2),
            "the pattern has 2 blocks, more than num_layers 1, so that some would never be built",
            "blocks",
        ),
    ],
)
def test_a_field_that_cannot_be_is_refused_where_it_is_made(make, message, path):
    with pytest.raises(SpecError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert caught.value.path == ((path,) if path else ("num_layers",))
    assert not isinstance(caught.value, MalError)


@pytest.mark.parametrize(
    ("make", "message", "path"),
    [
        (
            lambda: model(AttentionSpec(5)),
            "num_heads is 5, which does not divide hidden_size 64; choose another or set head_dim",
            ("blocks", 0, "attention", "num_heads"),
        ),
        (
            lambda: model(AttentionSpec(4, head_dim=63)),
            "attention needs an even head_dim for rope, got 63",
            ("blocks", 0, "attention", "head_dim"),
        ),
        (
            lambda: model(AttentionSpec(4, position_encoding=Rope(rotary_dim=32))),
            "rotary_dim is 32, more than head_dim 16",
            ("blocks", 0, "attention", "position_encoding", "rotary_dim"),
        ),
        (
            lambda: model(AttentionSpec(4, position_encoding=Learned(1024))),
            "max_positions is 1024, less than max_seq_len 2048",
            ("blocks", 0, "attention", "position_encoding", "max_positions"),
        ),
        (
            lambda: model(hidden_size=2**30),
            "hidden_dim, left out, would be 4 * hidden_size = 4294967296, above 2147483647",
            ("blocks", 0, "ffn"),
        ),
        (
            lambda: model(
                blocks=(BlockSpec(FOUR, name="a"), BlockSpec(FOUR, residual=False, name="a"))
            ),
            "two different block definitions of the pattern are both named 'a'",
            ("blocks", 1),
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_way_to_them(make, message, path):
    with pytest.raises(SpecError) as caught:
        make()
    assert str(caught.value) == message
    assert caught.value.path == path


def test_numbers_are_kept_as_floats():
    assert type(Rope(theta=10_000).theta) is float
    assert repr(Rope(theta=10_000)) == repr(Rope())


def test_blocks_without_names_may_differ():
    spec = model(blocks=(BlockSpec(FOUR), BlockSpec(FOUR, residual=False)))
    assert [layer.residual for layer in spec.layers[:4]] == [True, False, True, False]


def test_layers_have_every_derived_number():
    layer = model(AttentionSpec(8, num_kv_heads=2, name="a"), num_layers=3).layers[2]
    assert (layer.attention.num_kv_heads, layer.attention.head_dim) == (2, 8)
    assert (layer.ffn.hidden_dim, layer.ffn.activation, layer.ffn.gate) == (256, "silu", True)
    assert (layer.name, layer.attention.name, layer.ffn.name) == ("", "", "")


def test_a_scale_or_a_cap_of_its_own_replaces_the_default():
    assert model(AttentionSpec(4)).layers[0].attention.score_scale == 0.25
    assert model(AttentionSpec(4, scale=0.5)).layers[0].attention.score_scale == 0.5


def test_qk_norm_shares_the_blocks_eps_and_offset():
    assert BlockSpec(FOUR, norm=RMSNorm(1e-6, unit_offset=True)).qk_norm == RMSNorm(1e-6, True)
    assert BlockSpec(FOUR, norm=LayerNorm(1e-3)).qk_norm == RMSNorm(1e-3)
    assert BlockSpec(FOUR, norm=NoNorm()).qk_norm == RMSNorm(1e-5)


def test_learned_positions_are_max_seq_len_unless_said():
    assert model(AttentionSpec(4, position_encoding=Learned())).learned_positions == 2048
    assert model(AttentionSpec(4, position_encoding=Learned(4096))).learned_positions == 4096
    assert model().learned_positions == 0


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 100},
        {"max_seq_len": 100},
        {"num_layers": 3},
        {"embeddings": EmbeddingsSpec(tie_weights=True)},
        {"output": OutputSpec(norm=NoNorm())},
        {"blocks": (BlockSpec(FOUR, dropout=0.5),)},
    ],
)
def test_what_changes_the_numbers_changes_the_identity(change):
    assert dataclasses.replace(model(), **change).identity != model().identity


def test_names_and_derived_values_do_not_change_the_identity():
    written = BlockSpec(
        AttentionSpec(4, num_kv_heads=4, head_dim=16, name="a"), FfnSpec(256, name="f"), name="b"
    )
    other = model(blocks=(written,), name="other", output=OutputSpec(norm=RMSNorm()))
    assert other.identity == model().identity


def test_the_types_of_fields_are_those_of_their_annotations():
    types = list_field_types(AttentionSpec)
    assert types["num_heads"] == (int,)
    assert types["window_size"] == (int, type(None))
    assert Rope in types["position_encoding"]


def test_a_part_called_none_beside_a_layer_without_one_is_refused():
    with pytest.raises(SpecError) as caught:
        model(blocks=(BlockSpec(None), BlockSpec(AttentionSpec(4, name="none"))))
    assert str(caught.value) == (
        "two different attention definitions of the pattern are both named 'none'"
    )
    assert caught.value.path == ("blocks", 1, "attention")


def test_the_attention_of_layers_that_have_one_is_resolved():
    spec = model(blocks=(BlockSpec(None), BlockSpec(FOUR, None)), num_layers=5)
    assert [block.attention is None for block in spec.layers] == [True, False, True, False, True]
    assert [attention.head_dim for attention in spec.attentions] == [16, 16]
    assert not spec.has_dropout
    assert model(blocks=(BlockSpec(None, FfnSpec(dropout=0.1)),)).has_dropout
