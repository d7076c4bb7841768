"""What MLX's update on a CPU takes is what a plan counts, and rows are updated as the whole is."""

import pytest

from hermes import mal
from hermes.model_info import mlx_update_memory
from hermes.model_info.training_memory import Placement, plan_memory
from hermes.recipe import OptimizerRecipe, Recipe
from hermes_mlx import optimizer
from tests.mlx_memory import count_held_bytes, measure_peak
from tests.model_info.test_activations import make_batch, make_learner, make_spec

WIDE = {"hidden_size": "256", "vocab_size": "500", "num_layers": "2"}  # many like matrices
WORDS = {"hidden_size": "64", "vocab_size": "8000"}  # two large ones
STOCHASTIC = "bfloat16-stochastic"


def make_recipe(name, moments, ema=0.0):
    return Recipe(
        batch_size=1, seq_len=36, ema=ema, optimizer=OptimizerRecipe(name, moments=moments)
    )


def measure_step(spec, recipe):
    """Bytes of a learner and of a step of it, at their most."""
    before = count_held_bytes()
    learner, batch = make_learner("mlx", spec, recipe), make_batch(spec, 1, 1)
    float(learner.step(batch, 1e-4).grad_norm)
    return measure_peak(lambda: float(learner.step(batch, 1e-4).grad_norm)) - before


@pytest.mark.parametrize(
    ("edits", "name", "moments", "ema"),
    [
        (WIDE, "adamw", "float32", 0.0),
        (WIDE, "adamw", "bfloat16", 0.9),
        (WIDE, "adamw", STOCHASTIC, 0.0),
        (WIDE, "adamw", "float8", 0.0),
        (WIDE, "lion", "float8", 0.9),
        (WIDE, "muon", "float32", 0.0),
        (WIDE, "muon", "float8", 0.0),
        (WIDE, "normuon", "bfloat16", 0.0),
        (WIDE, "adafactor", "float32", 0.0),
        (WORDS, "adamw", "float32", 0.0),
        (WORDS, "adamw", "float8", 0.0),
        (WORDS, "lion", "float32", 0.0),
        (WORDS, "lion", STOCHASTIC, 0.0),
        (WORDS, "adafactor", "float32", 0.0),
    ],
)
def test_a_plan_is_about_the_peak_of_an_update(edits, name, moments, ema, monkeypatch):
    for module in (optimizer, mlx_update_memory):  # so that rows are split, at this size, too
        monkeypatch.setattr(module, "UPDATED_AT_ONCE", 1 << 15)
    spec, recipe = mal.edit_all(make_spec(1), edits), make_recipe(name, moments, ema)
    found = measure_step(spec, recipe)
    plan = plan_memory(spec, recipe, Placement("mlx"))
    assert plan.moment == "update"
    assert plan.total == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("moments", ["float32", "bfloat16", STOCHASTIC, "float8"])
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_rows_are_updated_as_the_whole_tensor_is(name, moments, monkeypatch):
    """To the bit, numbers that are rounded at random by their place among them."""
    spec, recipe, found = make_spec(1), make_recipe(name, moments, 0.9), []
    for size in (1 << 30, 100):
        monkeypatch.setattr(optimizer, "UPDATED_AT_ONCE", size)
        learner = make_learner("mlx", spec, recipe)
        for _ in range(2):
            float(learner.step(make_batch(spec, 1, 1), 1e-2).grad_norm)
        found.append(learner.digests())
    assert found[0] == found[1]


def test_a_plan_counts_as_many_numbers_at_a_time_as_are_updated():
    assert mlx_update_memory.UPDATED_AT_ONCE == optimizer.UPDATED_AT_ONCE


def test_moments_in_8_bits_take_less_memory_than_wide_ones_while_they_are_updated():
    spec, peaks = mal.edit_all(make_spec(1), {"hidden_size": "64", "vocab_size": "16000"}), []
    for moments in ("float32", "bfloat16", "float8"):
        peaks.append(measure_step(spec, make_recipe("adamw", moments)))
    assert peaks[0] > 1.2 * peaks[1] > 1.2 * peaks[2]


def test_moments_in_8_bits_are_loaded_some_rows_at_a_time(monkeypatch):
    """Loading them takes no more than an update."""
    monkeypatch.setattr(optimizer, "UPDATED_AT_ONCE", 1 << 15)
    spec = mal.edit_all(make_spec(1), {"hidden_size": "64", "vocab_size": "16000"})
    recipe, before = make_recipe("adamw", "float8"), count_held_bytes()
    loaded = measure_peak(lambda: make_learner("mlx", spec, recipe)) - before
    assert loaded < measure_step(spec, recipe)
