"""Sizes, batches and learning rates that rules give: against what their authors chose by them."""

import pytest

from hermes import mal
from hermes.errors import HermesError
from hermes.model_info.scaling_rules import (
    choose_batch_tokens,
    choose_learning_rate,
    choose_shape,
    choose_tokens,
    choose_warmup_steps,
    count_budget,
    make_shape,
    make_spec,
    read_count,
)
from hermes.numerics.params import count_parameters


@pytest.mark.parametrize(
    ("layers", "width", "heads", "kv_heads", "ffn", "lr", "sequences"),
    [
        (30, 4096, 32, 32, 11008, 4.2e-4, 2304),
        (95, 8192, 64, 8, 22016, 3.2e-4, 4608),
    ],
)
def test_the_models_of_deepseek_have_their_learning_rates_and_batches(
    layers, width, heads, kv_heads, ffn, lr, sequences
):
    """7B and 67B on 2 trillion tokens: Bi et al. 2024, arXiv:2401.02954, table 2."""
    sizes = {"num_layers": layers, "hidden_size": width, "vocab_size": 102_400}
    block = {"attention.num_heads": heads, "attention.num_kv_heads": kv_heads,
             "ffn.hidden_dim": ffn}  # fmt: skip
    edits = sizes | {f"block.{key}": value for key, value in block.items()} | {"max_seq_len": 4096}
    spec = mal.edit_all(mal.load("llama-22m"), {key: str(value) for key, value in edits.items()})
    budget = count_budget(spec, 4096, 2 * 10**12)
    assert choose_learning_rate(budget) == pytest.approx(lr, rel=0.03)
    assert choose_batch_tokens(budget) == pytest.approx(sequences * 4096, rel=0.06)


def test_small_budgets_have_the_smallest_fitted_learning_rate():
    assert choose_learning_rate(1e12) == choose_learning_rate(1e17) == 0.00234
    assert choose_learning_rate(1e18) < 0.00234


@pytest.mark.parametrize("params", [10**6, 22 * 10**6, 10**8, 36 * 10**7, 10**9, 4 * 10**9])
def test_a_shape_has_about_the_parameters_asked_for(params):
    shape = make_shape(params, None, 280 if params < 10**7 else 32_000, 2048)
    found = count_parameters(make_spec(shape))
    assert found == pytest.approx(params, rel=0.15)
    assert shape.tied == (params < 10**9)
    assert shape.width % shape.heads == 0
    assert shape.heads % shape.kv_heads == 0
    assert 32 <= shape.width / shape.depth <= 128


def test_one_dial_gives_all_sizes():
    parameters = [
        count_parameters(make_spec(make_shape(None, d, 32_000, 2048))) for d in (1, 8, 32)
    ]
    assert parameters == sorted(parameters)
    shape = make_shape(None, 12, 32_000, 2048)
    assert (shape.depth, shape.width, shape.heads, shape.ffn) == (12, 768, 12, 2048)


def test_a_llama_of_7b_has_the_shape_that_the_rules_give_its_width():
    shape = choose_shape(32, 4096, False, 32_000, 4096)
    assert (shape.heads, shape.ffn) == (32, 10_944)  # LLaMA rounds up to 11,008, a multiple of 256


def test_tokens_and_warm_up():
    assert choose_tokens(mal.load("llama-22m")) == 20 * 21_730_176
    assert [choose_warmup_steps(n) for n in (1, 100, 10_000, 10**6)] == [1, 2, 200, 2000]


@pytest.mark.parametrize(
    ("text", "count"),
    [("100M", 10**8), ("1.5b", 15 * 10**8), ("2e9", 2 * 10**9), (4000, 4000), ("10_000", 10**4),
     ("2T", 2 * 10**12), ("3k", 3000)],
)  # fmt: skip
def test_counts_are_read_with_their_units(text, count):
    assert read_count("tokens", text) == count


@pytest.mark.parametrize("text", ["", "many", "0", "-1M", "nan", "inf", "1e30", "M"])
def test_what_is_no_count_is_refused(text):
    with pytest.raises(HermesError, match="expected a count above 0, such as 100M or 2e9"):
        read_count("tokens", text)


def test_sizes_that_no_model_has_are_refused():
    with pytest.raises(
        HermesError, match="no model near 1,000 parameters has a vocabulary of 32,000"
    ):
        make_shape(1000, None, 32_000, 64)
    with pytest.raises(HermesError, match="depth must be from 1 to 64, got 65"):
        make_shape(None, 65, 32_000, 64)
