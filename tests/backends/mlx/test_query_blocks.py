"""On a CPU long rows of causal attention are written out in blocks: the same numbers, and fewer."""

from dataclasses import replace

import numpy as np
import pytest

from hermes.model_info.training_memory import Placement, plan_memory
from hermes.numerics.query_blocks import count_block_scores, list_query_blocks
from hermes.recipe import Recipe
from hermes.spec import Alibi, AttentionSpec
from hermes_mlx import ops
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec
from tests.mlx_memory import count_held_bytes, measure_peak

T = 130  # three blocks, the last of two queries
GROUPED = AttentionSpec(4, 2)
FORMS = {
    "causal": GROUPED,
    "window": replace(GROUPED, window_size=70),
    "narrow window": replace(GROUPED, window_size=3),
    "alibi": replace(GROUPED, position_encoding=Alibi()),
    "sinks": replace(GROUPED, sinks=True),
    "soft cap": replace(GROUPED, softcap=2.0),
}


def make_long(attention):
    return replace(make_spec(attention=attention), max_seq_len=T)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, T, 256, 513, 2048])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 100, 4000])
def test_blocks_have_every_query_and_the_keys_that_it_reads(length, window):
    queries, keys = np.arange(length)[:, None], np.arange(length)[None, :]
    read = (keys <= queries) & (queries - keys < (window or length))
    for start, end, first in list_query_blocks(length, window):
        read[start:end, first:end] = False
    assert not read.any()
    starts, ends, _ = zip(*list_query_blocks(length, window), strict=True)
    assert (starts[0], *ends) == (*starts, length)
    assert count_block_scores(length, window) <= length**2


def test_of_long_rows_three_eighths_of_the_scores_are_left_out():
    assert [count_block_scores(n, None) / n**2 for n in (64, 128, 256, 512)] == [
        1,
        0.75,
        0.625,
        0.625,
    ]
    assert count_block_scores(1024, 100) < 0.4 * 1024**2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_give_what_whole_rows_give(form, packed, monkeypatch):
    spec, batch = make_long(FORMS[form]), make_batch(T=T)
    if packed:
        batch = replace(batch, segments=np.sort(np.arange(2 * T) % 3).reshape(1, 2, T) // 2)
    found = make_learner("mlx", spec, options=FLOAT32).grads(batch)
    monkeypatch.setattr(ops, "list_query_blocks", lambda length, window: [])
    whole = make_learner("mlx", spec, options=FLOAT32).grads(batch)
    assert found[0] == pytest.approx(whole[0], rel=1e-6)
    for name, grad in whole[1].items():
        np.testing.assert_allclose(found[1][name], grad, rtol=0, atol=1e-5 * np.abs(grad).max())


@pytest.mark.parametrize(
    "attention", [replace(GROUPED, dropout=0.3), replace(GROUPED, causal=False)]
)
def test_rows_with_dropout_or_later_keys_are_computed_whole(attention, monkeypatch):
    monkeypatch.setattr(ops, "list_query_blocks", lambda *rest: pytest.fail("no blocks"))
    make_learner("mlx", make_long(attention), options=FLOAT32).grads(make_batch(T=T))


@pytest.mark.parametrize("form", ["causal", "window", "narrow window"])
def test_a_plan_is_about_the_peak_where_scores_are_most_of_it(form):
    spec = replace(make_long(replace(FORMS[form], num_heads=8)), max_seq_len=512)
    batch, before = make_batch(B=4, T=512), count_held_bytes()
    recipe = Recipe(batch_size=4, seq_len=512)
    learner = make_learner("mlx", spec, recipe, FLOAT32)
    float(learner.step(batch, 1e-4).grad_norm)
    found = measure_peak(lambda: float(learner.step(batch, 1e-4).grad_norm)) - before
    assert plan_memory(spec, recipe, Placement("mlx")).total == pytest.approx(found, rel=0.1)
