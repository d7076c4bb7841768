"""The table of tensors: names, shapes, parts, decay and first values, counted by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hermes import mal
from hermes.errors import SpecError
from hermes.numerics.params import count_parameters, init_weights, list_parameters, list_unfrozen

NANO = mal.load("nano")
V, C, L = 100, 16, 2


def model(fields="", block="", attention="", ffn="hidden_dim: 24"):
    return mal.loads(
        f"model m {{ vocab_size: {V}  hidden_size: {C}  num_layers: {L}  max_seq_len: 32 {fields} "
        f"block {{ attention {{ num_heads: 4  num_kv_heads: 2  {attention} }} ffn {{ {ffn} }} "
        f"{block} }} }}"
    )


def shapes(spec, within=""):
    return {name: t.shape for name, t in list_parameters(spec).items() if name.startswith(within)}


def test_a_llama_shaped_model_has_llamas_tensors_in_order():
    assert list(shapes(model())) == [
        "model.embed_tokens.weight",
        *(
            f"model.layers.{i}.{name}.weight"
            for i in range(L)
            for name in (
                *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
                *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
                *("input_layernorm", "post_attention_layernorm"),
            )
        ),
        "model.norm.weight",
        "lm_head.weight",
    ]


def test_matrices_are_out_by_in_and_keys_are_fewer_than_queries():
    found = shapes(model(attention="head_dim: 8"), "model.layers.0.")
    assert found["model.layers.0.self_attn.q_proj.weight"] == (32, C)
    assert found["model.layers.0.self_attn.k_proj.weight"] == (16, C)
    assert found["model.layers.0.self_attn.v_proj.weight"] == (16, C)
    assert found["model.layers.0.self_attn.o_proj.weight"] == (C, 32)
    assert found["model.layers.0.mlp.gate_proj.weight"] == (24, C)
    assert found["model.layers.0.mlp.up_proj.weight"] == (24, C)
    assert found["model.layers.0.mlp.down_proj.weight"] == (C, 24)
    assert found["model.layers.0.input_layernorm.weight"] == (C,)


# What each field adds to, or takes from, the plain model: counted by hand, over both layers.
@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        ({"attention": "bias: true"}, L * (16 + 8 + 8 + 16)),
        ({"attention": "bias: qkv"}, L * (16 + 8 + 8)),
        ({"attention": "qk_norm: head"}, L * (4 + 4)),
        ({"attention": "qk_norm: flat"}, L * (16 + 8)),
        ({"attention": "bias: o"}, L * 16),
        ({"attention": "v_head_dim: 6"}, L * (2 * 2 * C + 4 * 2 * C)),
        ({"attention": "v_head_dim: 6  bias: true"}, L * (12 * C + 16 + 8 + 12 + 16)),
        ({"attention": "output_gate: true"}, L * 16 * C),
        ({"attention": "output_gate: true  v_head_dim: 6  bias: qkv"}, L * 60 + L * 36 * C),
        ({"attention": "sinks: true"}, L * 4),
        ({"attention": "clip_qkv: 8"}, 0),
        ({"attention": "qk_norm { over: each_head }"}, L * (16 + 8)),
        ({"attention": "qk_norm { norm: layernorm }"}, L * (4 + 4)),
        ({"attention": "qk_norm { over: flat  weight: false }"}, 0),
        ({"attention": "position_encoding: learned"}, 32 * C),
        ({"attention": "position_encoding: learned { max_positions: 64 }"}, 64 * C),
        ({"attention": "position_encoding: alibi"}, 0),
        ({"attention": "position_encoding: alibi { slopes: learned }"}, L * 4),
        ({"attention": "position_encoding: none"}, 0),
        ({"attention": "window_size: 4  softcap: 3  scale: 1  dropout: 0.5  causal: false"}, 0),
        ({"ffn": "hidden_dim: 24  activation: gelu"}, -L * 24 * C),
        ({"ffn": "hidden_dim: 24  bias: true"}, L * (24 + 24 + C)),
        ({"ffn": "hidden_dim: 24  activation: gelu  bias: true"}, L * (24 + C - 24 * C)),
        ({"ffn": ""}, L * 3 * (64 - 24) * C),
        ({"block": "norm: layernorm"}, (2 * L + 1) * C),
        ({"block": "norm: layernorm { bias: false }"}, 0),
        ({"block": "norm: none"}, -(2 * L + 1) * C),
        ({"block": "norm_position: post"}, 0),
        ({"block": "norm_position: output"}, 0),
        ({"block": "norm_position: sandwich"}, 2 * L * C),
        ({"block": "parallel: true  residual: false"}, 0),
        ({"fields": "embeddings { tie_weights: true }"}, -V * C),
        ({"fields": "output { bias: true }"}, V),
        ({"fields": "embeddings { tie_weights: true }  output { bias: true }"}, V - V * C),
        ({"fields": "output { norm: none }"}, -C),
        ({"fields": "output { norm: layernorm }"}, C),
        ({"fields": "embeddings { norm: layernorm }"}, 2 * C),
        ({"fields": "embeddings { norm: rmsnorm }"}, C),
        ({"fields": "output { norm: layernorm { weight: false } }"}, -C),
        ({"fields": "output { norm: rmsnorm { weight: false } }"}, -C),
        ({"block": "norm: layernorm { weight: false }"}, -(2 * L + 1) * C),
    ],
)
def test_a_field_changes_the_count_by_what_it_adds(fields, difference):
    assert count_parameters(model(**fields)) - count_parameters(model()) == difference


@pytest.mark.parametrize(
    ("place", "norms"),
    [
        ("pre", ["input_layernorm", "post_attention_layernorm"]),
        ("pre  parallel: true  shared_norm: true", ["input_layernorm"]),
        ("post", ["post_attention_layernorm", "post_feedforward_layernorm"]),
        ("output", ["post_attention_layernorm", "post_feedforward_layernorm"]),
        (
            "sandwich",
            [
                *("input_layernorm", "post_attention_layernorm"),
                *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
            ],
        ),
    ],
)
def test_norms_are_named_by_their_place(place, norms):
    names = shapes(model(block=f"norm_position: {place}"), "model.layers.0.")
    found = [name.split(".")[3] for name in names if "layernorm" in name]
    assert found == norms


def test_every_tensor_has_a_part_and_the_parts_add_up():
    spec = mal.load("gpt2-small")
    parts = {}
    for tensor in list_parameters(spec).values():
        parts[tensor.part] = parts.get(tensor.part, 0) + tensor.size
    assert parts == {
        "embeddings": 50257 * 768,
        "positions": 1024 * 768,
        "attention": 12 * (4 * 768 * 768 + 4 * 768),
        "ffn": 12 * (2 * 768 * 3072 + 3072 + 768),
        "norms": 25 * 2 * 768,
    }


def test_matrices_decay_and_vectors_and_positions_do_not():
    spec = model(
        "output { bias: true }", "norm: layernorm", "bias: true  position_encoding: learned"
    )
    for name, tensor in list_parameters(spec).items():
        matrix = len(tensor.shape) == 2 and "positions" not in name
        assert tensor.decay == matrix, name


def test_fresh_matrices_are_normal_and_those_into_the_residual_smaller():
    weights = init_weights(NANO, seed=0)
    plain = weights["model.layers.0.mlp.up_proj.weight"]
    last = weights["model.layers.0.mlp.down_proj.weight"]
    assert plain.dtype == np.float32
    assert plain.std() == pytest.approx(0.02, rel=0.05)
    assert last.std() == pytest.approx(0.02 / math.sqrt(2 * NANO.num_layers), rel=0.05)
    assert abs(plain.mean()) < 0.001


def test_fresh_norms_are_the_identity_and_biases_zero():
    spec = model("output { bias: true }", "norm: layernorm", "bias: true")
    weights = init_weights(spec, seed=0)
    for name, tensor in list_parameters(spec).items():
        if name.endswith("bias"):
            assert not weights[name].any(), name
        elif tensor.part == "norms":
            assert (weights[name] == 1).all(), name
    offset = init_weights(model(block="norm: rmsnorm { unit_offset: true }"), seed=0)
    assert not offset["model.norm.weight"].any()


def test_fresh_slopes_are_alibis():
    weights = init_weights(model(attention="position_encoding: alibi { slopes: learned }"), seed=0)
    assert weights["model.layers.1.self_attn.alibi_slopes"].tolist() == [
        2**-2,
        2**-4,
        2**-6,
        2**-8,
    ]


def test_fresh_weights_depend_on_seed_and_name_alone():
    deeper = replace(NANO, num_layers=3)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert (init_weights(NANO, 1)[name] == init_weights(deeper, 1)[name]).all()
    assert (init_weights(NANO, 1)[name] != init_weights(NANO, 2)[name]).any()
    other = "model.layers.0.self_attn.q_proj.weight"
    assert (init_weights(NANO, 1)[name] != init_weights(NANO, 1)[other]).any()


def test_freezing_takes_the_embeddings_and_the_bottom_layers_by_number_not_by_prefix():
    spec = replace(NANO, num_layers=12)
    trained = list_unfrozen(spec, freeze_layers=2)
    assert "model.embed_tokens.weight" not in trained
    assert "lm_head.weight" in trained
    numbers = {int(name.split(".")[2]) for name in trained if name.startswith("model.layers.")}
    assert numbers == set(range(2, 12))
    assert list_unfrozen(spec) == tuple(list_parameters(spec))
    with pytest.raises(SpecError, match="freeze_layers is 13; the model has 12 layers"):
        list_unfrozen(spec, freeze_layers=13)
