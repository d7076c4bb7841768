"""Settings that torch keeps for the whole process are set while a model computes, then restored."""

import numpy as np
import pytest
import torch

from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, FfnSpec, ModelSpec
from hermes_torch import global_state

SPEC = ModelSpec(
    blocks=(BlockSpec(AttentionSpec(2), FfnSpec(8)),),
    vocab_size=11,
    max_seq_len=8,
    hidden_size=8,
    num_layers=1,
)
IDS = np.arange(8, dtype=np.int32).reshape(2, 4)
REPEATED = Options(device="cpu", deterministic=True)


def record_mode(model, seen):
    """Note at each forward pass of the model whether torch is deterministic."""
    now = torch.are_deterministic_algorithms_enabled
    model.runtime.module.model.register_forward_hook(lambda *_: seen.append(now()))
    return model


@pytest.fixture(params=[(False, False), (True, True)], ids=["off", "warning"])
def before(request):
    """What the process has set for itself."""
    enabled, warns = request.param
    torch.use_deterministic_algorithms(enabled, warn_only=warns)
    yield request.param
    torch.use_deterministic_algorithms(False)


def is_set():
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warns


def test_a_deterministic_model_leaves_torch_as_it_was(before):
    seen = []
    weights = init_weights(SPEC, 0)
    model = record_mode(find_backend("torch").build(SPEC, weights, REPEATED), seen)
    batch = Batch(IDS[None], IDS[None], np.arange(2, dtype=np.uint32)[None])
    for call in (
        lambda: model.logits(IDS),
        lambda: model.logprobs(IDS, IDS),
        lambda: model.row_logprobs(IDS, IDS),
        lambda: model.loss(batch),
        lambda: model.decoder(2, 8).advance(IDS),
    ):
        call()
        assert is_set() == before
    assert seen == [True] * 5


def test_a_deterministic_learner_leaves_torch_as_it_was(before):
    seen = []
    state = TrainState(init_weights(SPEC, 0), {}, {}, 0)
    recipe = Recipe(batch_size=2, seq_len=4)
    learner = record_mode(find_backend("torch").learner(SPEC, state, recipe, REPEATED), seen)
    batch = Batch(IDS[None], IDS[None], np.arange(2, dtype=np.uint32)[None])
    learner.grads(batch)
    assert is_set() == before
    learner.step(batch, 1e-3)
    assert is_set() == before
    assert seen == [True, True]


def test_tf32_is_on_in_its_context_alone():
    with global_state.apply_options(Options(precision="tf32")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
    with global_state.apply_options(Options()):
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("chosen", [None, *global_state.ALLOCATOR_VARIABLES])
def test_training_on_cuda_grows_segments_unless_the_user_has_chosen(monkeypatch, chosen):
    asked = []
    monkeypatch.setattr(torch.cuda.memory, "_set_allocator_settings", asked.append)
    for name in global_state.ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv(chosen, "max_split_size_mb:512")
    global_state.use_expandable_segments()
    assert asked == ([] if chosen else ["expandable_segments:True"])
