"""What models cost, counted by hand on shapes small enough to do so."""

import pytest
from hypothesis import HealthCheck, given, settings

from hermes import mal
from hermes.formatting import format_columns, format_count, format_with_unit
from hermes.model_info.cost import compute_cost, count_flops
from hermes.model_info.diff import Change, Reshaped, compare
from hermes.model_info.shape import format_ranges, group_layers, group_tensors
from hermes.numerics.params import count_parameters, list_parameters
from tests.strategies import models

V, C, L, T, F = 100, 16, 3, 8, 24
PROJECTIONS = L * (16 * C + 8 * C + 8 * C + C * 16 + 3 * F * C)
HEAD = V * C


def model(fields="", attention="", block=""):
    return mal.loads(
        f"model m {{ vocab_size: {V}  max_seq_len: {T}  hidden_size: {C}  num_layers: {L} {fields} "
        f"block {{ attention {{ num_heads: 4  num_kv_heads: 2 {attention} }} "
        f"ffn {{ hidden_dim: {F} }} {block} }} }}"
    )


def test_arithmetic_of_a_causal_model():
    forward = 2 * (PROJECTIONS + HEAD)
    # A token sees (1 + 2 + ... + 8) / 8 = 4.5 keys in the mean, 8 at the end of the context; each
    # costs a multiply and an add in each of 4 heads of 4, once to score and once to mix.
    assert count_flops(model(), training=True) == 3 * (forward + L * 4 * 16 * 4.5)
    assert count_flops(model(), training=False) == forward + L * 4 * 16 * 8


def test_arithmetic_within_a_window():
    forward = 2 * (PROJECTIONS + HEAD)
    spec = model(attention="window_size: 3")
    # 1 + 2 + 3 + 3 + 3 + 3 + 3 + 3 keys of 8 tokens.
    assert count_flops(spec, training=True) == round(3 * (forward + L * 4 * 16 * 21 / 8))
    assert count_flops(spec, training=False) == forward + L * 4 * 16 * 3
    assert count_flops(model(attention="window_size: 9"), training=True) == count_flops(
        model(), training=True
    )


def test_arithmetic_without_a_causal_mask():
    forward = 2 * (PROJECTIONS + HEAD)
    spec = model(attention="causal: false")
    assert count_flops(spec, training=True) == 3 * (forward + L * 4 * 16 * 8)
    # Of 8 tokens, each sees itself and one on either side but for the ends: 2 + 3 * 6 + 2.
    spec = model(attention="causal: false  window_size: 2")
    assert count_flops(spec, training=True) == round(3 * (forward + L * 4 * 16 * 22 / 8))


def test_a_tied_head_multiplies_all_the_same():
    tied = model("embeddings { tie_weights: true }")
    assert count_flops(tied, training=True) == count_flops(model(), training=True)
    assert count_parameters(tied) == count_parameters(model()) - HEAD


def test_the_usual_estimate_of_six_per_parameter_is_near():
    spec = mal.load("smol-llama")
    attention = 3 * 4 * 960 * 32 * (2048 + 1) / 2
    assert count_flops(spec, training=True) - attention == pytest.approx(
        6 * count_parameters(spec), rel=1e-3
    )


def test_a_token_leaves_its_keys_and_values_in_every_layer():
    cost = compute_cost(model())
    assert cost.kv_bytes_per_token == {"float32": L * 2 * 2 * 4 * 4, "bfloat16": L * 2 * 2 * 4 * 2}
    assert compute_cost(mal.load("mistral-7b")).kv_bytes_per_token["bfloat16"] == 131_072


def test_memory_is_weights_cache_gradients_and_moments():
    cost = compute_cost(model())
    norms = (2 * L + 1) * C
    matrices = PROJECTIONS + 2 * HEAD
    assert cost.parameters == matrices + norms
    wide, half = cost.memory["float32"], cost.memory["bfloat16"]
    assert wide["weights"] == 4 * cost.parameters
    assert half["weights"] == 2 * matrices + 4 * norms
    for name, memory in cost.memory.items():
        assert memory["kv_cache"] == T * cost.kv_bytes_per_token[name]
        assert memory["decoding"] == memory["weights"] + memory["kv_cache"]
    assert wide["training"] == 16 * cost.parameters
    assert half["training"] == 16 * cost.parameters + 2 * (PROJECTIONS + HEAD)


def test_a_large_models_count_is_exact():
    cost = compute_cost(mal.load("llama-7b"))
    assert cost.parameters == 6_738_415_616
    assert cost.parameters_by_part == {
        "embeddings": 131_072_000,
        "positions": 0,
        "attention": 32 * 4 * 4096 * 4096,
        "ffn": 32 * 3 * 4096 * 11008,
        "norms": 65 * 4096,
        "head": 131_072_000,
    }


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(models())
def test_every_model_can_be_counted_and_is_its_own_twin(spec):
    cost = compute_cost(spec)
    assert sum(cost.parameters_by_part.values()) == cost.parameters == count_parameters(spec)
    assert all(isinstance(count, int) for count in cost.flops_per_token.values())
    again = compare(spec, mal.loads(mal.dumps(spec)))
    assert again.same
    assert again.structure == ()
    assert list(again.reusable) == list(list_parameters(spec))


def test_two_models_are_compared_key_by_key_and_tensor_by_tensor():
    a = model()
    b = model("embeddings { tie_weights: true }", "bias: qkv", "norm: layernorm { bias: false }")
    difference = compare(a, b)
    assert not difference.same
    norm = "rmsnorm { eps: 1e-5  unit_offset: false }", "layernorm { eps: 1e-5  bias: false }"
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


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([], ""),
        ([3], "3"),
        ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8"),
        (range(0, 40, 2), "0, 2, 4, 6, ..., 38"),
    ],
)
def test_spans_of_numbers(numbers, words):
    assert format_ranges(numbers) == words


def test_tensors_are_grouped_over_layers():
    table = list_parameters(model())
    names = [name for name in table if "q_proj" in name or "embed" in name]
    assert [label for label, _ in group_tensors(names, table)] == [
        "model.embed_tokens.weight",
        "model.layers.[0-2].self_attn.q_proj.weight",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (28_966_928_384, "29.0 GB"),
    ],
)
def test_a_count_with_its_unit(count, text):
    assert format_with_unit(count, "B") == text


def test_one_of_a_thing_is_not_several():
    assert [format_count(n, "rows") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
    kept = ("pairs are kept", "pair is kept")
    assert [format_count(n, *kept) for n in (1, 2)] == ["1 pair is kept", "2 pairs are kept"]


def test_columns_are_as_wide_as_their_widest_cell():
    assert format_columns([("a", "1"), ("bbb", "22", "c")], right=(1,)) == ["a     1", "bbb  22  c"]
