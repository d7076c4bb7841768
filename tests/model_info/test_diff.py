"""Two models compared key by key and tensor by tensor."""

from hermes import mal
from hermes.model_info.diff import Change, Reshaped, compare
from hermes.model_info.shape import group_layers
from tests.model_info.models import C, L, V, model


def test_two_models_are_compared_key_by_key_and_tensor_by_tensor():
    a = model()
    b = model("embeddings { tie_weights: true }", "bias: qkv", "norm: layernorm { bias: false }")
    difference = compare(a, b)
    assert not difference.same
    norm = (
        "rmsnorm { eps: 1e-5  unit_offset: false  weight: true }",
        "layernorm { eps: 1e-5  bias: false  weight: true  unit_offset: false }",
    )
    assert difference.structure == (
        Change("model", "embeddings.tie_weights", "false", "true"),
        Change("model", "output.norm", *norm),
        Change("layers 0-2", "attention.bias", "false", "qkv"),
        Change("layers 0-2", "norm", *norm),
    )
    assert difference.only_a == ("lm_head.weight",)
    assert len(difference.only_b) == 3 * L
    assert difference.reshaped == ()
    assert "model.layers.0.input_layernorm.weight" in difference.reusable


def test_tensors_of_another_shape_are_named_with_both():
    a, b = model(), mal.edit(model(), "vocab_size", "50")
    assert compare(a, b).reshaped == (
        Reshaped("model.embed_tokens.weight", (V, C), (50, C)),
        Reshaped("lm_head.weight", (V, C), (50, C)),
    )


def test_layers_of_a_pattern_differ_where_they_do():
    text = (
        "attention a {{ num_heads: 4 }} attention w {{ num_heads: 4 window_size: {} }} "
        "block a {{ attention: a }} block w {{ attention: w }} "
        "model m {{ hidden_size: 16 num_layers: 6 pattern: [w, w, a] }}"
    )
    difference = compare(mal.loads(text.format(8)), mal.loads(text.format(16)))
    assert difference.structure == (Change("layers 0-1, 3-4", "attention.window_size", "8", "16"),)
    assert [group for group, _ in group_layers(difference.a)] == [[0, 1, 3, 4], [2, 5]]


def test_a_missing_part_differs_from_each_key_of_the_other_side():
    a = model()
    b = mal.edit(a, "block.ffn", "none")
    changes = compare(a, b).structure
    assert Change("layers 0-2", "ffn", "-", "none") in changes
    assert Change("layers 0-2", "ffn.bias", "false", "-") in changes
    assert compare(b, a).structure[0] == Change("layers 0-2", "ffn", "none", "-")
    assert {name.split(".")[3] for name in compare(a, b).only_a} == {
        *("mlp", "post_attention_layernorm")
    }
