"""Low-rank adapters: what they add, what they leave alone, and both backends train them alike."""

from dataclasses import replace

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.numerics.lora import init_adapters, list_adapter_tensors, list_trainable, merge_adapters
from hermes.numerics.params import init_weights, list_parameters
from hermes.recipe import Lora, Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec

SPEC = ModelSpec(
    blocks=(BlockSpec(AttentionSpec(4, 2, bias="qkv"), FfnSpec(hidden_dim=24)),),
    vocab_size=37,
    max_seq_len=32,
    hidden_size=16,
    num_layers=2,
)
EXACT = Options(device="cpu", precision="float64")


def batch(seed=0):
    ids = np.random.default_rng(seed).integers(0, 37, (2, 2, 11)).astype(np.int32)
    return Batch(ids[..., :-1], ids[..., 1:].copy(), np.arange(4, dtype=np.uint32).reshape(2, 2))


def state(lora, *, loud=True, spec=SPEC):
    rng = np.random.default_rng(1)
    params = {n: w * 10 if w.ndim > 1 else w for n, w in init_weights(spec, 0).items()}
    for name, tensor in init_adapters(spec, lora, 0).items():
        params[name] = tensor + (rng.normal(0, 0.3, tensor.shape).astype("f4") if loud else 0)
    return TrainState(params, {}, {}, 0)


def oracle(params, lora):
    from hermes_numpy.lora import merge_adapter

    weights = dict(params)
    for name in list_adapter_tensors(SPEC, lora):
        if name.endswith("lora_A.weight"):
            path = name.removesuffix(".lora_A.weight")
            pair = params[name].astype(float), params[f"{path}.lora_B.weight"].astype(float)
            weights[f"{path}.weight"] = merge_adapter(
                params[f"{path}.weight"].astype(float), *pair, lora
            )
    return find_backend("numpy").build(SPEC, weights)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), Lora().targets])
def test_an_adapted_model_is_the_oracle_on_merged_weights(backend, targets):
    lora = Lora(rank=3, alpha=5.0, targets=targets)
    start, recipe = state(lora), Recipe(lora=lora)
    learner = find_backend(backend).learner(SPEC, start, recipe, EXACT)
    expected = oracle(start.params, lora).loss(batch())
    assert abs(learner.grads(batch())[0] - expected) < 1e-12
    assert abs(learner.loss(batch()) - expected) < 1e-12
    by_merging = find_backend(backend).build(SPEC, merge_adapters(SPEC, start.params, lora), EXACT)
    assert abs(by_merging.loss(batch()) - expected) < 1e-6  # merged weights are float32


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_fresh_adapter_changes_nothing(backend):
    lora = Lora()
    start = state(lora, loud=False)
    learner = find_backend(backend).learner(SPEC, start, Recipe(lora=lora), EXACT)
    plain = find_backend(backend).build(SPEC, start.params, EXACT)
    np.testing.assert_array_equal(
        learner.logits(batch().tokens[0]), plain.logits(batch().tokens[0])
    )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_both_backends_train_an_adapter_alike_and_leave_the_base_alone(dropout):
    lora = Lora(rank=2, dropout=dropout)
    start, recipe = state(lora), Recipe(lora=lora, seed=4)
    ends, losses = [], []
    for name in ("torch", "mlx"):
        learner = find_backend(name).learner(SPEC, start, recipe, EXACT)
        losses.append([float(learner.step(batch(i), 1e-2).loss) for i in range(6)])
        ends.append(learner.state())
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-12)
    for name in start.params:
        first, second = (end.params[name] for end in ends)
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-12)
        if name in list_parameters(SPEC):
            np.testing.assert_array_equal(first.astype("f4"), start.params[name])
    assert (
        set(ends[0].exp_avg)
        == set(list_adapter_tensors(SPEC, lora))
        == set(list_trainable(SPEC, recipe))
    )


def test_dropout_of_an_adapter_is_felt():
    quiet, loud = Lora(), Lora(dropout=0.5)
    losses = {
        lora.dropout: find_backend("torch")
        .learner(SPEC, state(lora), Recipe(lora=lora), EXACT)
        .grads(batch())[0]
        for lora in (quiet, loud)
    }
    assert abs(losses[0.0] - losses[0.5]) > 1e-4


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(HermesError, match=r"^lora.targets must be of q_proj, .*, got 'wq'$"):
        Lora(targets=("wq",))
    with pytest.raises(HermesError, match=r"^freeze_layers has no meaning with lora"):
        Recipe(lora=Lora(), freeze_layers=1)


def test_the_gate_of_attention_gets_no_adapter():
    (block,) = SPEC.blocks
    gated = replace(block, attention=replace(block.attention, output_gate=True))
    spec = replace(SPEC, blocks=(gated,))
    assert "model.layers.0.self_attn.gate_proj.weight" in list_parameters(spec)
    assert list_adapter_tensors(spec, Lora()) == list_adapter_tensors(SPEC, Lora())
    only = list_adapter_tensors(spec, Lora(targets=("gate_proj",)))
    assert [name for name in only if "mlp" not in name] == []


def test_every_matrix_of_a_model_without_ffn_is_adapted_and_a_missing_one_is_named():
    layers = (BlockSpec(AttentionSpec(4), None), BlockSpec(AttentionSpec(4), None))
    spec = replace(SPEC, blocks=layers)
    names = {name.split(".")[4] for name in list_adapter_tensors(spec, Lora())}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with pytest.raises(HermesError, match=r"lora\.targets names 'up_proj', which this model does"):
        list_adapter_tensors(spec, Lora(targets=("q_proj", "up_proj")))


def test_adapters_of_layers_that_lack_parts_train_alike():
    """A layer of attention alone, and one of a feed-forward network alone."""
    blocks = (
        BlockSpec(AttentionSpec(4, 2), None, residual_scale=0.5),
        BlockSpec(None, FfnSpec(hidden_dim=24, limit=1.0, alpha=1.702)),
    )
    spec, lora = replace(SPEC, blocks=blocks), Lora(rank=3, alpha=6.0)
    found = {}
    for backend in ("torch", "mlx"):
        start = state(lora, spec=spec)
        learner = find_backend(backend).learner(spec, start, Recipe(lora=lora), EXACT)
        loss, grads = learner.grads(batch())
        found[backend] = loss, {name: np.asarray(value) for name, value in grads.items()}
    assert abs(found["torch"][0] - found["mlx"][0]) < 1e-12
    assert set(found["torch"][1]) == set(list_adapter_tensors(spec, lora))
    for name, value in found["torch"][1].items():
        assert np.abs(value - found["mlx"][1][name]).max() < 1e-11, name
        assert np.abs(value).max() > 0, name
