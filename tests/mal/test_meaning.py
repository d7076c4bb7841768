"""What each spelling of each key means."""

import dataclasses

import pytest

from hermes import mal
from hermes.mal.words import SYNONYMS, WORDS, list_keys
from hermes.spec import (
    Alibi,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    ModelSpec,
    NoNorm,
    NoPositions,
    OutputSpec,
    RMSNorm,
    Rope,
    YarnScaling,
)


def model(fields="", block="", attention="", ffn=""):
    return mal.loads(
        f"model m {{ block {{ attention {{ num_heads: 4 {attention} }} ffn {{ {ffn} }} {block} }} "
        f"{fields} }}"
    )


def attention(text):
    return model(attention=text).blocks[0].attention


def ffn(text):
    return model(ffn=text).blocks[0].ffn


def block(text):
    return model(block=text).blocks[0]


def test_defaults_are_those_of_the_language():
    spec = model()
    assert (spec.vocab_size, spec.max_seq_len, spec.hidden_size) == (32000, 2048, 768)
    assert (spec.num_layers, spec.description) == (12, "")
    assert spec.embeddings == EmbeddingsSpec(tie_weights=False, dropout=0.0, scale=None)
    assert spec.output == OutputSpec(bias=False, norm=None, softcap=None)
    layer = spec.layers[11]
    assert layer == BlockSpec(
        attention=AttentionSpec(
            num_heads=4,
            num_kv_heads=4,
            head_dim=192,
            bias="none",
            dropout=0.0,
            causal=True,
            window_size=None,
            position_encoding=Rope(theta=10000.0, scaling=None, rotary_dim=None),
            qk_norm="none",
            softcap=None,
            scale=None,
            v_head_dim=192,
            clip_qkv=None,
            sinks=False,
            output_gate=False,
        ),
        ffn=FfnSpec(hidden_dim=3072, activation="silu", gate=True, bias=False, dropout=0.0),
        norm=RMSNorm(eps=1e-5, unit_offset=False),
        norm_position="pre",
        residual=True,
        dropout=0.0,
        parallel=False,
    )
    assert spec.final_norm == RMSNorm(eps=1e-5)


def test_a_block_needs_no_ffn_of_its_own():
    spec = mal.loads("model m { block { attention { num_heads: 4 } } }")
    assert spec.blocks[0].ffn == FfnSpec()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("n_heads: 4", "num_heads", 4),
        ("attention_heads: 4", "num_heads", 4),
        ("num_heads: 4 kv_heads: 2", "num_kv_heads", 2),
        ("num_heads: 4 head_dim: 16", "head_dim", 16),
        ("num_heads: 4 bias: false", "bias", "none"),
        ("num_heads: 4 bias: true", "bias", "all"),
        ("num_heads: 4 bias: qkv", "bias", "qkv"),
        ("num_heads: 4 dropout: 0.5", "dropout", 0.5),
        ("num_heads: 4 dropout: 0", "dropout", 0.0),
        ("num_heads: 4 causal: false", "causal", False),
        ("num_heads: 4 window_size: 7", "window_size", 7),
        ("num_heads: 4 window_size: none", "window_size", None),
        ("num_heads: 4 qk_norm: true", "qk_norm", "head"),
        ("num_heads: 4 qk_norm: head", "qk_norm", "head"),
        ("num_heads: 4 qk_norm: flat", "qk_norm", "flat"),
        ("num_heads: 4 qk_norm: none", "qk_norm", "none"),
        ("num_heads: 4 qk_norm: false", "qk_norm", "none"),
        ("num_heads: 4 softcap: 50", "softcap", 50.0),
        ("num_heads: 4 softcap: none", "softcap", None),
        ("num_heads: 4 scale: 0.125", "scale", 0.125),
        ("num_heads: 4 scale: none", "scale", None),
        ("num_heads: 4 position_encoding: none", "position_encoding", NoPositions()),
        ("num_heads: 4 position_encoding: none { }", "position_encoding", NoPositions()),
        ("num_heads: 4 position_encoding: alibi", "position_encoding", Alibi("fixed")),
        (
            "num_heads: 4 position_encoding: alibi { slopes: learned }",
            "position_encoding",
            Alibi("learned"),
        ),
        ("num_heads: 4 position_encoding: learned", "position_encoding", Learned(None)),
        (
            "num_heads: 4 position_encoding: learned { max_positions: 4096 }",
            "position_encoding",
            Learned(4096),
        ),
    ],
)
def test_a_key_of_attention(text, key, value):
    spec = mal.loads(f"model m {{ block {{ attention {{ {text} }} }} }}").blocks[0].attention
    assert getattr(spec, key) == value
    assert dataclasses.replace(spec, **{key: getattr(AttentionSpec(4), key)}) == AttentionSpec(4)


@pytest.mark.parametrize(
    ("text", "rope"),
    [
        ("rope", Rope()),
        ("rope { }", Rope()),
        ("rope { theta: 500000 }", Rope(theta=5e5)),
        ("rope { rope_theta: 5e5 }", Rope(theta=5e5)),
        ("rope { base: 500000.0 }", Rope(theta=5e5)),
        ("rope { rotary_dim: 64 }", Rope(rotary_dim=64)),
        ("rope { scaling: none }", Rope()),
        ("rope { scaling: linear { factor: 4 } }", Rope(scaling=LinearScaling(4.0))),
        ("rope { rope_scaling: 4 }", Rope(scaling=LinearScaling(4.0))),
        (
            "rope { scaling: llama3 { factor: 8  low_freq_factor: 1  high_freq_factor: 4 "
            "original_max_seq_len: 8192 } }",
            Rope(scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ),
        (
            "rope { scaling: yarn { factor: 16  original_max_seq_len: 4096 } }",
            Rope(scaling=YarnScaling(16.0, 4096, 32.0, 1.0)),
        ),
        (
            "rope { scaling: yarn { factor: 16, original_max_seq_len: 4096, beta_fast: 30, "
            "beta_slow: 2 } }",
            Rope(scaling=YarnScaling(16.0, 4096, 30.0, 2.0)),
        ),
    ],
)
def test_a_spelling_of_rope(text, rope):
    assert attention(f"position_encoding: {text}").position_encoding == rope


@pytest.mark.parametrize("name", ["swiglu", "geglu", "gelu", "gelu_tanh", "silu", "relu", "relu2"])
def test_an_activation_is_gated_where_its_name_says_so(name):
    spec = ffn(f"activation: {name}")
    assert spec.activation == name
    assert spec.gated == name.endswith("glu")


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu", "relu2"])
def test_an_activation_can_be_gated(name):
    layer = model(ffn=f"activation: {name}  gate: true").layers[0]
    assert (layer.ffn.function, layer.ffn.gated) == (name, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", FfnSpec()),
        ("hidden_dim: 512", FfnSpec(hidden_dim=512)),
        ("intermediate_size: 512", FfnSpec(hidden_dim=512)),
        ("activation: gelu_new", FfnSpec(activation="gelu_tanh")),
        ("gate: true", FfnSpec(gate=True)),
        ("bias: true", FfnSpec(bias=True)),
        ("dropout: 1e-1", FfnSpec(dropout=0.1)),
        ("limit: 7  alpha: 1.702", FfnSpec(limit=7.0, alpha=1.702)),
        (
            "activation: silu  gate: true  limit: 7  alpha: 1",
            FfnSpec(None, "silu", True, limit=7.0, alpha=1.0),
        ),
        ("limit: none  alpha: none", FfnSpec()),
    ],
)
def test_a_key_of_ffn(text, expected):
    assert ffn(text) == expected


@pytest.mark.parametrize(
    ("text", "norm"),
    [
        ("rmsnorm", RMSNorm()),
        ("rmsnorm { }", RMSNorm()),
        ("rmsnorm { eps: 1e-6 }", RMSNorm(1e-6)),
        ("rmsnorm { norm_eps: 1e-6 }", RMSNorm(1e-6)),
        ("rmsnorm { eps: 1e-6, unit_offset: true }", RMSNorm(1e-6, unit_offset=True)),
        ("layernorm", LayerNorm()),
        ("layernorm { eps: 1e-12  bias: false }", LayerNorm(1e-12, bias=False)),
        ("layernorm { weight: false }", LayerNorm(bias=False, weight=False)),
        ("layernorm { weight: false  bias: false }", LayerNorm(weight=False)),
        ("rmsnorm { weight: false }", RMSNorm(weight=False)),
        ("none", NoNorm()),
    ],
)
def test_a_norm_of_a_block_and_of_the_output(text, norm):
    assert block(f"norm: {text}").norm == norm
    assert model(f"output {{ norm: {text} }}").final_norm == norm


@pytest.mark.parametrize("place", ["pre", "post", "output", "sandwich"])
def test_a_place_of_norms(place):
    assert block(f"norm_position: {place}").norm_position == place


def test_the_other_keys_of_a_block():
    assert block("residual_scale: 0.22").residual_scale == 0.22
    assert block("parallel: true  shared_norm: true").shared_norm
    assert block("residual_scale: none").residual_scale is None
    spec = block("residual: false  dropout: 0.25  parallel: true")
    assert (spec.residual, spec.dropout, spec.parallel) == (False, 0.25, True)


def test_the_final_norm_is_the_last_blocks_unless_said():
    spec = model("output { norm: none }", block="norm: layernorm { eps: 1e-6 }")
    assert spec.final_norm == NoNorm()
    spec = model(block="norm: layernorm { eps: 1e-6 }")
    assert spec.final_norm == LayerNorm(1e-6)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('description: "a \\"b\\" \\\\ \\n\\t"', "description", 'a "b" \\ \n\t'),
        ("vocab_size: 100", "vocab_size", 100),
        ("context_length: 100", "max_seq_len", 100),
        ("seq_len: 100", "max_seq_len", 100),
        ("d_model: 64", "hidden_size", 64),
        ("embed_dim: 64", "hidden_size", 64),
        ("n_layers: 3", "num_layers", 3),
        ("depth: 3", "num_layers", 3),
        ("embeddings { tie_weights: true }", "embeddings", EmbeddingsSpec(tie_weights=True)),
        ("embeddings: { tie_weights: true }", "embeddings", EmbeddingsSpec(tie_weights=True)),
        (
            "embeddings { dropout: 0.1, scale: 27.7 }",
            "embeddings",
            EmbeddingsSpec(dropout=0.1, scale=27.7),
        ),
        ("embeddings { scale: none }", "embeddings", EmbeddingsSpec()),
        ("output { bias: true softcap: 30 }", "output", OutputSpec(bias=True, softcap=30.0)),
        ("output { softcap: none }", "output", OutputSpec()),
        (
            "embeddings { norm: layernorm { eps: 1e-6 } }",
            "embeddings",
            EmbeddingsSpec(norm=LayerNorm(1e-6)),
        ),
        ("embeddings { norm: rmsnorm }", "embeddings", EmbeddingsSpec(norm=RMSNorm())),
        ("embeddings { norm: none }", "embeddings", EmbeddingsSpec()),
        ("output { scale: 0.0625 }", "output", OutputSpec(scale=0.0625)),
    ],
)
def test_a_key_of_a_model(text, key, value):
    assert getattr(model(text), key) == value


def test_every_synonym_is_a_key_somewhere():
    for word, key in SYNONYMS.items():
        assert any(key in list_keys(kind) for kind in WORDS), word
        assert not any(word in list_keys(kind) for kind in WORDS), word


def test_the_dialects_own_spellings_load():
    spec = mal.loads(
        """
        # hybrid of the keys that other files of the dialect use
        attention mha {
            n_heads: 8
            kv_heads: 4
            head_dim: 64
            dropout: 0.0
            bias: false
            causal: true
            window_size: 4096    # sliding window
            position_encoding: rope { rope_theta: 10000.0 rope_scaling: 2.0 }
        }
        ffn mlp { intermediate_size: 1024 activation: gelu_new gate: false bias: true }
        block b {
            attention: mha
            ffn: mlp
            norm: layernorm { norm_eps: 1e-6 }
            norm_position: post
            residual: true
            dropout: 0.1
        }
        model hybrid-tiny {
            description: "two
lines"
            context_length: 4096
            d_model: 512
            block: b
            depth: 6
            embeddings { tie_weights: true dropout: 0.0 scale: 1.5 }
            output { bias: true norm: rmsnorm { } }
        }
        """
    )
    assert spec.name == "hybrid-tiny"
    assert spec.description == "two\nlines"
    assert spec.layers[5].attention.position_encoding == Rope(scaling=LinearScaling(2.0))
    assert isinstance(spec, ModelSpec)


def test_two_spellings_of_one_architecture_have_one_identity():
    short = mal.loads("model a { hidden_size: 64  block { attention { num_heads: 4 } } }")
    long = mal.loads(
        'model b { description: "x" hidden_size: 64 block: c output { norm: rmsnorm } } '
        "attention d { num_heads: 4 num_kv_heads: 4 head_dim: 16 } "
        "block c { attention: d  ffn { hidden_dim: 256  activation: silu  gate: true } }"
    )
    assert short != long
    assert short.identity == long.identity
