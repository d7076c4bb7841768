"""Chunked cross-entropy is cross-entropy, and so are its gradients, wherever the chunks end."""

import importlib

import numpy as np
import pytest

from hermes.interface import IGNORE, Batch, Options, PreferencePairs, TrainState, find_backend
from hermes.numerics import chunking
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
    "scaled": (EmbeddingsSpec(), OutputSpec(scale=0.3)),
    "scaled and capped": (EmbeddingsSpec(), OutputSpec(bias=True, softcap=3.0, scale=1.7)),
}


def make_spec(head):
    return ModelSpec((BLOCK,), "chunked", "", V, 16, 8, 2, *HEADS[head])


def make_batch(pairs=None):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (1, B, T)).astype(np.int32)
    targets = rng.integers(0, V, (1, B, T)).astype(np.int32)
    targets[0, 1, :4] = IGNORE
    targets[0, 3, 5:] = IGNORE
    return Batch(tokens, targets, np.arange(B, dtype=np.uint32)[None], pairs=pairs)


def make_learner(backend, head, recipe=PLAIN, **options):
    spec = make_spec(head)
    weights = {name: 3 * np.asarray(x) for name, x in init_weights(spec, 0).items()}
    if recipe.lora is not None:
        weights |= dict(init_adapters(spec, recipe.lora, 0, weights).items())
    state = TrainState(weights, {}, {}, 0)
    return find_backend(backend).learner(spec, state, recipe, Options(**options))


@pytest.fixture(params=["torch", "mlx"])
def use_chunks(request, monkeypatch):
    """Make a backend's chunks hold so many tokens; returns its name."""
    module = importlib.import_module(f"hermes_{request.param}.chunked_loss")

    def set_rows(rows):
        size = {"cpu": rows * V} if request.param == "torch" else rows * V
        monkeypatch.setattr(module, "CHUNK_LOGITS", size)
        monkeypatch.setattr(chunking, "FEWEST_TOKENS", 1)
        return request.param

    return set_rows


def worst_error(found, wanted):
    return max(np.abs(found[n] - wanted[n]).max() / np.abs(wanted[n]).max() for n in wanted)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [1, 5, B * T - 1, B * T, 1000])
def test_chunks_change_neither_loss_nor_gradients(use_chunks, head, rows):
    backend, batch = use_chunks(rows), make_batch()
    loss, grads = make_learner(backend, head, precision="float64").grads(batch)
    found_loss, found = make_learner(backend, head).grads(batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert worst_error(found, grads) < 5e-6


@pytest.mark.parametrize("rows", [5, 1000])
def test_chunks_change_no_log_probability(use_chunks, rows):
    backend, batch = use_chunks(rows), make_batch()
    exact, fast = (make_learner(backend, "capped", precision=p) for p in ("float64", "float32"))
    given = batch.tokens[0], batch.targets[0]
    np.testing.assert_allclose(fast.logprobs(*given), exact.logprobs(*given), atol=2e-6)
    assert fast.loss(batch) == pytest.approx(exact.loss(batch), rel=1e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [5, 30, 1000])  # a pair in several, one in each, both in one
def test_chunked_pairs_have_the_same_gradients_and_a_loss_of_ln_2_at_the_reference(
    use_chunks, head, rows
):
    rule = Preference(beta=0.5)
    recipe = Recipe(objective="preference", preference=rule)
    backend = use_chunks(rows)
    learner = make_learner(backend, head, recipe)
    reference = learner.row_logprobs(make_batch().tokens[0], make_batch().targets[0])
    batch = make_batch(PreferencePairs(reference[None], rule))
    loss, grads = make_learner(backend, head, recipe, precision="float64").grads(batch)
    found_loss, found = learner.grads(batch)
    assert found_loss == pytest.approx(np.log(2), abs=1e-6)
    assert found_loss == pytest.approx(loss, abs=5e-6)  # the reference's sums are float32's
    assert worst_error(found, grads) < 5e-6


@pytest.mark.parametrize("rows", [5, 30, 1000])
def test_chunked_pairs_of_different_gradients_have_the_same_rows(use_chunks, rows):
    rule = Preference(loss="simpo", beta=2.0, gamma=0.5, sft_weight=0.3)
    recipe = Recipe(objective="preference", preference=rule)
    backend, batch = use_chunks(rows), make_batch(PreferencePairs(np.zeros((1, B)), rule))
    exact, fast = (
        make_learner(backend, "own", recipe, precision=p) for p in ("float64", "float32")
    )
    (loss, grads), (found_loss, found) = exact.grads(batch), fast.grads(batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert worst_error(found, grads) < 5e-6
    given = batch.tokens[0], batch.targets[0]
    rows_of_step = np.asarray(fast.step(batch, 1e-3).row_logprobs)[0]
    np.testing.assert_allclose(rows_of_step, exact.row_logprobs(*given), rtol=1e-6)


def test_a_frozen_head_gets_no_gradient_and_adapters_get_theirs(use_chunks):
    recipe = Recipe(lora=Lora(rank=2, targets=("q_proj",)))
    backend, batch = use_chunks(5), make_batch()
    exact = make_learner(backend, "own", recipe, precision="float64").grads(batch)[1]
    found = make_learner(backend, "own", recipe).grads(batch)[1]
    assert set(found) == set(exact)
    assert all("lora" in name for name in found)
    moved = {name: grad for name, grad in exact.items() if np.abs(grad).max() > 0}
    assert moved
    assert worst_error(found, moved) < 5e-6


ROWS = Lora(rank=2, targets=("q_proj",), token_ids=(0, 31, 96))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_chunks_give_trained_rows_of_tokens_their_gradients(use_chunks, head, rows):
    recipe = Recipe(lora=ROWS)
    backend, batch = use_chunks(rows), make_batch()
    loss, exact = make_learner(backend, head, recipe, precision="float64").grads(batch)
    learner = make_learner(backend, head, recipe)
    found_loss, found = learner.grads(batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    names = [name for name in found if "token_adapter" in name]
    assert len(names) == 1 + (head not in ("tied", "capped"))
    moved = {name: grad for name, grad in exact.items() if np.abs(grad).max() > 0}
    assert set(names) < set(moved)
    assert worst_error(found, moved) < 5e-6
    assert learner.loss(batch) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("rows", [5, 1000])
def test_chunked_pairs_give_trained_rows_of_tokens_their_gradients(use_chunks, rows):
    rule = Preference(loss="simpo", beta=2.0, gamma=0.5, sft_weight=0.3)
    recipe = Recipe(objective="preference", preference=rule, lora=ROWS)
    backend, batch = use_chunks(rows), make_batch(PreferencePairs(np.zeros((1, B)), rule))
    exact, fast = (
        make_learner(backend, "biased", recipe, precision=p) for p in ("float64", "float32")
    )
    moved = {name: g for name, g in exact.grads(batch)[1].items() if np.abs(g).max() > 0}
    assert worst_error(fast.grads(batch)[1], moved) < 5e-6


def test_gradients_of_bfloat16_chunks_are_summed_in_float32(use_chunks):
    batch = make_batch()
    whole = make_learner(use_chunks(1000), "own", precision="bfloat16").grads(batch)[1]
    cut = make_learner(use_chunks(1), "own", precision="bfloat16").grads(batch)[1]
    exact = make_learner(use_chunks(1), "own", precision="float64").grads(batch)[1]
    one = {"lm_head.weight": exact["lm_head.weight"]}
    assert worst_error(cut, one) < 2 * worst_error(whole, one)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_tokens_without_targets_get_no_logits(monkeypatch, backend):
    chunked_loss = importlib.import_module(f"hermes_{backend}.chunked_loss")
    batch, rows, score_chunk = make_batch(), [], chunked_loss.score_chunk

    def count_rows(head, x, *more):
        rows.append(len(x))
        return score_chunk(head, x, *more)

    monkeypatch.setattr(chunked_loss, "score_chunk", count_rows)
    found = make_learner(backend, "own", device="cpu").logprobs(batch.tokens[0], batch.targets[0])
    assert sum(rows) == (batch.targets != IGNORE).sum() == np.count_nonzero(found)
    nothing = np.full((B, T), IGNORE, np.int32)
    assert not make_learner(backend, "own", device="cpu").logprobs(batch.tokens[0], nothing).any()
