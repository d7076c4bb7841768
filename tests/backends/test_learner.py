"""What one update does, on each backend: laws that are easily broken without anyone noticing."""

import dataclasses
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from hermes.errors import HermesError, SpecError, Unsupported
from hermes.interface import IGNORE, Batch, Options, TrainState, find_backend
from hermes.numerics.params import init_weights, list_parameters
from hermes.recipe import OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec
from hermes_conformance.faults.fault import Inside

BACKENDS = ("torch", "mlx")
EXACT = Options(device="cpu", precision="float64")
FLOAT32 = Options(device="cpu")

PLAIN = AttentionSpec(4, 2)


def spec(*, layers=2, attention=PLAIN, tied=False, dropout=0.0):
    return ModelSpec(
        blocks=(BlockSpec(attention, FfnSpec(hidden_dim=24), dropout=dropout),),
        vocab_size=37,
        max_seq_len=32,
        hidden_size=16,
        num_layers=layers,
        embeddings=EmbeddingsSpec(tie_weights=tied),
    )


def weights(model, scale=10):
    return {n: w * scale if w.ndim > 1 else w for n, w in init_weights(model, 0).items()}


def batch(A=1, B=2, T=10, seed=0, counted=None):
    ids = np.random.default_rng(seed).integers(0, 37, (A, B, T + 1)).astype(np.int32)
    targets = ids[..., 1:].copy()
    for (a, b), n in (counted or {}).items():
        targets[a, b, n:] = IGNORE
    return Batch(ids[..., :-1], targets, np.arange(A * B, dtype=np.uint32).reshape(A, B))


def learner(backend, model, recipe=None, options=EXACT, state=None):
    state = state or TrainState(weights(model), {}, {}, 0)
    return find_backend(backend).learner(model, state, recipe or Recipe(), options)


def split(whole, A):
    """The same samples in A micro-batches."""

    def cut(array):
        return array.reshape(A, -1, *array.shape[2:])

    return Batch(cut(whole.tokens), cut(whole.targets), cut(whole.rows))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_every_split_of_an_update_gives_the_same_gradients(backend, dropout):
    """Uneven counts: a mean of means, or only the last micro-batch, would differ."""
    model = spec(dropout=dropout)
    whole = batch(A=1, B=8, counted={(0, 0): 1, (0, 1): 2, (0, 5): 0, (0, 7): 3})
    loss, grads = learner(backend, model).grads(whole)
    for A in (2, 4, 8):
        again, found = learner(backend, model).grads(split(whole, A))
        assert abs(again - loss) < 1e-12
        for name, g in grads.items():
            np.testing.assert_allclose(found[name], g, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clipping_bounds_the_gradient_and_leaves_the_weights_alone(backend):
    """With SGD-like moments off, a bounded gradient shows in exp_avg = (1 - beta1) * clipped."""
    model, data = spec(), batch()
    _, grads = learner(backend, model).grads(data)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    bound = float(norm / 3)
    update = learner(backend, model, Recipe(grad_clip=bound))
    report = update.step(data, 1e-12)
    assert abs(float(report.grad_norm) / norm - 1) < 1e-12
    state = update.state()
    for name, g in grads.items():
        clipped = 0.1 * g * bound / (norm + 1e-6)
        np.testing.assert_allclose(state.exp_avg[name], clipped, rtol=1e-9, atol=1e-18)
        np.testing.assert_allclose(state.params[name], weights(model)[name], atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [EXACT, FLOAT32], ids=["float64", "float32"])
def test_the_update_is_adamw_with_bias_correction_and_decay_of_matrices_only(backend, options):
    """Against torch.optim.AdamW itself, in float64, on the backend's own gradients."""
    model = spec(attention=AttentionSpec(4, 2, bias="all"))
    recipe = Recipe(grad_clip=0, optimizer=OptimizerRecipe(weight_decay=0.3, beta2=0.9))
    update = learner(backend, model, recipe, options)
    table = list_parameters(model)
    mine = {n: torch.tensor(w, dtype=torch.float64) for n, w in weights(model).items()}
    groups = [
        {"params": [mine[n] for n in table if table[n].decay is decay], "weight_decay": rate}
        for decay, rate in ((True, 0.3), (False, 0.0))
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.9), eps=1e-8)
    for step in range(4):
        data, lr = batch(seed=step), 1e-2 / (step + 1)
        _, grads = update.grads(data)
        for name, p in mine.items():
            p.grad = torch.tensor(grads[name], dtype=torch.float64)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        update.step(data, lr)
    bound = 1e-12 if options is EXACT else 2e-6
    found = update.state().params
    for name, p in mine.items():
        np.testing.assert_allclose(found[name], p.numpy(), rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_freezing_holds_the_bottom_layers_and_only_those(backend):
    """Twelve layers, so that a match of `layers.1` by prefix would take `layers.10` along."""
    model = spec(layers=12)
    update = learner(backend, model, Recipe(freeze_layers=2), FLOAT32)
    for step in range(2):
        update.step(batch(seed=step), 1e-2)
    state, before = update.state(), weights(model)
    frozen = ("model.embed_tokens.", "model.layers.0.", "model.layers.1.")
    for name in list_parameters(model):
        same = np.array_equal(state.params[name], before[name])
        assert same == name.startswith(frozen), name
        assert (name in state.exp_avg) != name.startswith(frozen), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_many_layers_to_freeze_is_an_error(backend):
    with pytest.raises(SpecError, match=r"^freeze_layers is 3; the model has 2 layers$"):
        learner(backend, spec(), Recipe(freeze_layers=3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("freeze", [0, 1])
def test_a_tied_head_stays_tied_and_is_frozen_with_the_embeddings(backend, freeze):
    model = spec(tied=True)
    update = learner(backend, model, Recipe(freeze_layers=freeze))
    for step in range(3):
        update.step(batch(seed=step), 1e-2)
    state = update.state()
    assert "lm_head.weight" not in state.params
    moved = not np.array_equal(
        state.params["model.embed_tokens.weight"], weights(model)["model.embed_tokens.weight"]
    )
    assert moved is (freeze == 0)
    tokens = batch().tokens[0]
    oracle = find_backend("numpy").build(model, dict(state.params))
    np.testing.assert_allclose(update.logits(tokens), oracle.logits(tokens), atol=1e-11)


@pytest.mark.parametrize("backend", ["numpy", *BACKENDS])
def test_a_window_sees_its_own_token_and_those_before_it_and_no_more(backend):
    """Changing the key W places back must change nothing; the one W - 1 back must."""
    W, T = 3, 8
    model = spec(layers=1, attention=AttentionSpec(4, 2, window_size=W))
    built = find_backend(backend).build(model, weights(model), EXACT)
    tokens = np.arange(T, dtype=np.int32)[None]
    last = built.logits(tokens)[0, -1]
    for back in range(1, T):
        changed = tokens.copy()
        changed[0, T - 1 - back] = 30
        same = np.array_equal(built.logits(changed)[0, -1], last)
        assert same == (back >= W), back


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_acts_in_training_and_never_in_evaluation(backend):
    model, data = spec(dropout=0.3), batch()
    update = learner(backend, model)
    dropped, _ = update.grads(data)
    assert abs(dropped - update.loss(data)) > 1e-3
    assert update.loss(data) == update.loss(data)
    update.step(data, 0.0)
    assert abs(update.grads(data)[0] - dropped) > 1e-4  # another step, another mask


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_that_are_none_change_nothing(backend):
    model, data = spec(), batch()
    state = weights(model)
    state["model.norm.weight"] = np.full(16, np.nan, np.float32)
    for options in (EXACT, FLOAT32):
        update = learner(backend, model, None, options, TrainState(state, {}, {}, 0))
        report = update.step(data, 1e-2)
        assert not np.isfinite(float(report.loss))
        after = update.state()
        for name, w in state.items():
            np.testing.assert_array_equal(after.params[name], w, err_msg=name)
            assert not after.exp_avg[name].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_stopped_and_gone_on_with_is_the_same_run(backend):
    """To the bit: weights, moments, bias correction and dropout masks."""
    model = spec(dropout=0.1)
    whole = learner(backend, model, None, FLOAT32)
    losses = [float(whole.step(batch(seed=i), 1e-2).loss) for i in range(6)]
    first = learner(backend, model, None, FLOAT32)
    for i in range(3):
        first.step(batch(seed=i), 1e-2)
    held = first.state()
    held = TrainState(dict(held.params), dict(held.exp_avg), dict(held.exp_avg_sq), held.step)
    second = learner(backend, model, None, FLOAT32, held)
    assert [float(second.step(batch(seed=i), 1e-2).loss) for i in range(3, 6)] == losses[3:]
    for name, w in whole.state().params.items():
        np.testing.assert_array_equal(second.state().params[name], w)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_checkpointing_changes_no_gradient(backend):
    model, data = spec(dropout=0.2), batch(A=2)
    loss, grads = learner(backend, model).grads(data)
    again, found = learner(
        backend, model, None, dataclasses.replace(EXACT, grad_checkpoint=True)
    ).grads(data)
    assert again == loss
    for name, g in grads.items():
        np.testing.assert_allclose(found[name], g, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_trains_near_float32_and_keeps_float32_masters(backend):
    model = spec()
    ends = []
    for precision in ("float32", "bfloat16"):
        update = learner(backend, model, None, Options(device="cpu", precision=precision))
        losses = [float(update.step(batch(seed=0), 3e-3).loss) for _ in range(8)]
        ends.append((losses, update.state()))
    (plain, _), (coarse, state) = ends
    np.testing.assert_allclose(coarse, plain, rtol=3e-2)
    assert coarse != plain
    assert coarse[-1] < coarse[0]
    master = state.params["model.layers.0.mlp.up_proj.weight"]
    assert master.dtype == np.float32
    assert (master.view(np.uint32) & 0xFFFF).any()  # more bits than bfloat16 has


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_backend_cannot_do_it_declines_in_one_sentence(backend):
    with pytest.raises(Unsupported, match=rf"^hermes_{backend} does not compute in float16; "):
        learner(backend, spec(), None, Options(device="cpu", precision="float16"))
    with pytest.raises(Unsupported, match=rf"^hermes_{backend} has no device 'tpu' here; it has "):
        learner(backend, spec(), None, Options(device="tpu"))


@pytest.mark.parametrize("backend", ["numpy", *BACKENDS])
def test_tokens_that_cannot_be_are_refused_before_the_device_sees_them(backend):
    built = find_backend(backend).build(spec(), weights(spec()), EXACT)
    with pytest.raises(HermesError, match=r"^token id 37 is outside the vocabulary of 37$"):
        built.logits(np.array([[1, 37]]))
    with pytest.raises(HermesError, match=r"^token id -1 is outside the vocabulary of 37$"):
        built.logits(np.array([[1, -1]]))
    long = np.zeros((1, 33), np.int64)
    with pytest.raises(
        HermesError, match=r"^a sequence of 33 tokens is longer than max_seq_len 32"
    ):
        built.logits(long)
    decoder = built.decoder(1, 4)
    decoder.advance(long[:, :3])
    with pytest.raises(HermesError, match=r"^a decoder of 1 rows and 4 tokens cannot hold 1 rows"):
        decoder.advance(long[:, :2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_that_counts_nothing_is_refused(backend):
    nothing = batch(counted={(0, 0): 0, (0, 1): 0})
    with pytest.raises(HermesError, match=r"^a batch without a single counted target has no loss$"):
        learner(backend, spec()).step(nothing, 1e-3)


def test_torch_repeats_itself_on_several_threads():
    """Indexing an embedding adds its gradient in any order; the library's own function does not."""
    model = dataclasses.replace(spec(), vocab_size=500, hidden_size=64)
    ids = np.random.default_rng(0).integers(0, 20, (1, 16, 33)).astype(np.int32)
    data = Batch(ids[..., :-1], ids[..., 1:].copy(), np.arange(16, dtype=np.uint32)[None])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        update = learner("torch", model, None, FLOAT32)
        first = update.grads(data)[1]["model.embed_tokens.weight"]
        for _ in range(10):
            again = update.grads(data)[1]["model.embed_tokens.weight"]
            np.testing.assert_array_equal(again, first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_that_was_read_is_changed_by_no_later_update(backend):
    made = learner(backend, spec(), options=FLOAT32)
    made.step(batch(), 1e-2)
    state = made.state()
    read = [dict(part) for part in (state.params, state.exp_avg, state.exp_avg_sq)]
    before = [{name: np.array(x) for name, x in part.items()} for part in read]
    made.step(batch(seed=1), 1e-2)
    for part, was in zip(read, before, strict=True):
        for name in was:
            np.testing.assert_array_equal(part[name], was[name], err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_built_as_trained_gives_what_its_learner_gives_to_the_bit(backend, precision):
    """The reference of preferences is such a model's, and the policy a learner."""
    model, options = spec(tied=True), Options(device="cpu", precision=precision, as_trained=True)
    made = find_backend(backend).build(model, weights(model), options)
    trained = learner(backend, model, options=options)
    tokens = batch(B=6, T=24).tokens[0]
    sums = np.asarray(trained.row_logprobs(tokens, tokens))
    np.testing.assert_array_equal(made.row_logprobs(tokens, tokens), sums)
    made.decoder(1, 8)
    np.testing.assert_array_equal(made.row_logprobs(tokens, tokens), sums)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tensor_that_the_loss_does_not_depend_on_has_zeros_for_a_gradient(backend):
    with ExitStack() as stack:
        inside = Inside(backend, stack)

        def unused(attention):
            return lambda q, k, v, *rest: attention(q, k, inside.detached(v), *rest)

        inside.table("attention", unused)
        made = learner(backend, spec())
        _, grads = made.grads(batch())
        assert not np.asarray(grads["model.layers.1.self_attn.v_proj.weight"]).any()
        assert np.asarray(grads["model.layers.1.self_attn.o_proj.weight"]).any()
        report = made.step(batch(), 1e-3)
    assert np.isfinite(float(report.grad_norm))
