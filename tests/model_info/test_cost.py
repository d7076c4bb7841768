"""What models cost, counted by hand on shapes small enough to do so."""

import pytest
from hypothesis import HealthCheck, given, settings

from hermes import mal
from hermes.model_info.cost import compute_cost, count_flops
from hermes.model_info.diff import compare
from hermes.model_info.run_plan import plan_run
from hermes.model_info.training_memory import Placement
from hermes.numerics.params import count_parameters, list_parameters
from hermes.recipe import Recipe
from tests.model_info.models import HEAD, PROJECTIONS, C, L, T, model
from tests.strategies import models


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


def test_layers_without_attention_or_ffn_cost_what_they_have():
    text = (
        "attention a {{ num_heads: 4 }} block a {{ attention: a  ffn: {} }} "
        "block f {{ attention: none  ffn {{ hidden_dim: 24 }} }} "
        "model m {{ vocab_size: 100  max_seq_len: 8  hidden_size: 16  num_layers: 4 "
        "pattern: [a, f] }}"
    )
    cost = compute_cost(mal.loads(text.format("none")))
    assert cost.kv_bytes_per_token["float32"] == 2 * 2 * 16 * 4
    assert cost.parameters_by_part["attention"] == 2 * 4 * 16 * 16
    assert cost.parameters_by_part["ffn"] == 2 * 3 * 24 * 16
    assert cost.parameters_by_part["norms"] == (4 + 1) * 16
    weights = 2 * 4 * 16 * 16 + 2 * 3 * 24 * 16 + 100 * 16
    assert cost.flops_per_token["decoding"] == 2 * weights + 2 * 4 * 16 * 8
    both = compute_cost(mal.loads(text.format("{ hidden_dim: 24 }")))
    assert both.parameters - cost.parameters == 2 * (3 * 24 * 16 + 16)


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


@pytest.mark.parametrize(
    ("placement", "kept"),
    [
        (Placement("torch", "cpu", "bfloat16"), "float32"),
        (Placement("torch", "cuda", "bfloat16"), "bfloat16"),
        (Placement("mlx", "cpu", "bfloat16"), "bfloat16"),
        (Placement("mlx", "gpu", "float32"), "float32"),
    ],
)
def test_a_plan_has_the_cache_in_the_type_it_is_kept_in(placement, kept):
    plan = plan_run(model(), Recipe(seq_len=T), placement)
    assert plan.kv_cache == compute_cost(model()).memory[kept]["kv_cache"]


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


def test_values_of_another_size_cost_what_they_take():
    wide, plain = model(attention="v_head_dim: 6"), model()
    weights = 2 * L * (2 * 2 + 4 * 2) * 16
    scores = L * 2 * 4 * 2 * 8  # of each of 8 keys, two more products in each of 4 heads
    assert count_flops(wide, training=False) - count_flops(plain, training=False) == (
        weights + scores
    )
    assert compute_cost(wide).kv_bytes_per_token["float32"] == L * 2 * (4 + 6) * 4
