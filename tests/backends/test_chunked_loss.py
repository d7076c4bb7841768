"""The loss in slices is the loss, and so are its gradients, wherever the slices end."""

import importlib

import numpy as np
import pytest

from hermes.interface import IGNORE, Batch, Options, PreferencePairs, TrainState, find_backend
from hermes.numerics.chunking import group_pairs, index_pair_targets, make_spans
from hermes.numerics.lora import init_adapters
from hermes.numerics.params import init_weights
from hermes.recipe import Lora, Preference, Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec, OutputSpec

V, B, T = 97, 4, 13
PLAIN = Recipe()
BLOCK = BlockSpec(AttentionSpec(2), FfnSpec(hidden_dim=16))
HEADS = {
    "own": (EmbeddingsSpec(), OutputSpec()),
    "tied": (EmbeddingsSpec(tie_weights=True), OutputSpec()),
    "biased": (EmbeddingsSpec(), OutputSpec(bias=True)),
    "capped": (EmbeddingsSpec(tie_weights=True), OutputSpec(softcap=3.0)),
}


def spec_of(head):
    return ModelSpec((BLOCK,), "sliced", "", V, 16, 8, 2, *HEADS[head])


def batch_of(pairs=None):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (1, B, T)).astype(np.int32)
    targets = rng.integers(0, V, (1, B, T)).astype(np.int32)
    targets[0, 1, :4] = IGNORE
    targets[0, 3, 5:] = IGNORE
    return Batch(tokens, targets, np.arange(B, dtype=np.uint32)[None], pairs=pairs)


def learner_of(backend, head, recipe=PLAIN, **options):
    spec = spec_of(head)
    weights = {name: 3 * np.asarray(x) for name, x in init_weights(spec, 0).items()}
    if recipe.lora is not None:
        weights |= dict(init_adapters(spec, recipe.lora, 0).items())
    state = TrainState(weights, {}, {}, 0)
    return find_backend(backend).learner(spec, state, recipe, Options(**options))


@pytest.fixture(params=["torch", "mlx"])
def sliced(request, monkeypatch):
    """Makes a backend's slices hold so many tokens."""
    module = importlib.import_module(f"hermes_{request.param}.chunked_loss")

    def into(rows):
        size = {"cpu": rows * V} if request.param == "torch" else rows * V
        monkeypatch.setattr(module, "CHUNK_LOGITS", size)
        return request.param

    return into


def worst(found, wanted):
    return max(np.abs(found[n] - wanted[n]).max() / np.abs(wanted[n]).max() for n in wanted)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [1, 5, B * T - 1, B * T, 1000])
def test_slices_change_neither_loss_nor_gradients(sliced, head, rows):
    backend, batch = sliced(rows), batch_of()
    loss, grads = learner_of(backend, head, precision="float64").grads(batch)
    found_loss, found = learner_of(backend, head).grads(batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert worst(found, grads) < 5e-6


@pytest.mark.parametrize("rows", [5, 1000])
def test_slices_change_no_log_probability(sliced, rows):
    backend, batch = sliced(rows), batch_of()
    exact, fast = (learner_of(backend, "capped", precision=p) for p in ("float64", "float32"))
    given = batch.tokens[0], batch.targets[0]
    np.testing.assert_allclose(fast.logprobs(*given), exact.logprobs(*given), atol=2e-6)
    assert fast.loss(batch) == pytest.approx(exact.loss(batch), rel=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [5, 30, 1000])  # a pair in several, one in each, both in one
def test_slices_of_pairs_have_the_same_gradients_and_the_reference_its_numbers(sliced, head, rows):
    rule = Preference(beta=0.5)
    recipe = Recipe(objective="preference", preference=rule)
    backend = sliced(rows)
    learner = learner_of(backend, head, recipe)
    reference = learner.row_logprobs(batch_of().tokens[0], batch_of().targets[0])
    batch = batch_of(PreferencePairs(reference[None], rule))
    loss, grads = learner_of(backend, head, recipe, precision="float64").grads(batch)
    found_loss, found = learner.grads(batch)
    assert found_loss == pytest.approx(np.log(2), abs=1e-6)
    assert found_loss == pytest.approx(loss, abs=5e-6)  # the reference's sums are float32's
    assert worst(found, grads) < 5e-6


@pytest.mark.parametrize("rows", [5, 30, 1000])
def test_pairs_of_different_slopes_in_slices_and_their_rows(sliced, rows):
    rule = Preference(loss="simpo", beta=2.0, gamma=0.5, sft_weight=0.3)
    recipe = Recipe(objective="preference", preference=rule)
    backend, batch = sliced(rows), batch_of(PreferencePairs(np.zeros((1, B)), rule))
    exact, fast = (learner_of(backend, "own", recipe, precision=p) for p in ("float64", "float32"))
    (loss, grads), (found_loss, found) = exact.grads(batch), fast.grads(batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert worst(found, grads) < 5e-6
    given = batch.tokens[0], batch.targets[0]
    told = np.asarray(fast.step(batch, 1e-3).row_logprobs)[0]
    np.testing.assert_allclose(told, exact.row_logprobs(*given), rtol=1e-6)


def test_tokens_of_pairs_are_sorted_by_pair_and_grouped_into_slices():
    targets = np.array([[1, IGNORE], [2, 3], [IGNORE, 4], [5, 6]])
    places, ends = index_pair_targets(targets)
    assert (places.tolist(), ends) == ([0, 5, 2, 3, 6, 7], (2, 6))
    assert index_pair_targets(targets, everywhere=True)[1] == (4, 8)
    assert index_pair_targets(np.full((2, 3), IGNORE))[1] == (6,)
    assert group_pairs((2, 6, 7, 9), 4) == [(0, 1), (1, 2), (2, 4)]
    assert group_pairs((2, 6, 7, 9), 1) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert group_pairs((2, 6, 7, 9), 9) == [(0, 4)]
    assert make_spans(2, 7, 2) == [(2, 4), (4, 6), (6, 7)]


def test_a_frozen_head_gets_no_gradient_and_adapters_get_theirs(sliced):
    recipe = Recipe(lora=Lora(rank=2, targets=("q_proj",)))
    backend, batch = sliced(5), batch_of()
    exact = learner_of(backend, "own", recipe, precision="float64").grads(batch)[1]
    found = learner_of(backend, "own", recipe).grads(batch)[1]
    assert set(found) == set(exact)
    assert all("lora" in name for name in found)
    moved = {name: grad for name, grad in exact.items() if np.abs(grad).max() > 0}
    assert moved
    assert worst(found, moved) < 5e-6


def test_gradients_of_slices_in_bfloat16_are_summed_wide(sliced):
    batch = batch_of()
    whole = learner_of(sliced(1000), "own", precision="bfloat16").grads(batch)[1]
    cut = learner_of(sliced(1), "own", precision="bfloat16").grads(batch)[1]
    exact = learner_of(sliced(1), "own", precision="float64").grads(batch)[1]
    one = {"lm_head.weight": exact["lm_head.weight"]}
    assert worst(cut, one) < 2 * worst(whole, one)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_what_is_not_counted_has_no_logits_made(monkeypatch, backend):
    sliced = importlib.import_module(f"hermes_{backend}.chunked_loss")
    batch, made, honest = batch_of(), [], sliced.score_chunk

    def watched(head, x, *more):
        made.append(len(x))
        return honest(head, x, *more)

    monkeypatch.setattr(sliced, "score_chunk", watched)
    found = learner_of(backend, "own", device="cpu").logprobs(batch.tokens[0], batch.targets[0])
    assert sum(made) == (batch.targets != IGNORE).sum() == np.count_nonzero(found)
    nothing = np.full((B, T), IGNORE, np.int32)
    assert not learner_of(backend, "own", device="cpu").logprobs(batch.tokens[0], nothing).any()
