"""How a step's batch comes to the device, as far as it can be seen without one.

On CUDA: from pinned memory, as int32, all micro-batches at once, without waiting; widened there.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hermes import load_spec
from hermes.batch import Batch, PreferencePairs
from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.document_dataset import DocumentDataset
from hermes.interface import Options, TrainState, choose_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Preference, Recipe
from hermes_torch import learner as learner_module
from hermes_torch.fused_attention import Kernels
from hermes_torch.runtime import Runtime
from tests.training.support import SPEC as TEXT

SPEC = load_spec(TEXT)
EOS = 1
STREAM = TokenStream.from_ids(([5, 6, 7, 8, 9, 10, 11, EOS] * 40)[:-3])
DATASETS = {
    "windows": lambda: TextDataset(STREAM, seq_len=8, vocab_size=16),
    "documents": lambda: DocumentDataset(STREAM, seq_len=8, vocab_size=16, eos_id=EOS),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_a_batch_is_copied_to_cuda_pinned_narrow_and_at_once(monkeypatch, kind):
    batch, _ = DATASETS[kind]().draw_batch(Cursor(), samples=12, micro_batch=4, accum=3)
    seen, to = [], torch.Tensor.to

    def pin(tensor):
        seen.append(("pin", tensor.dtype, tuple(tensor.shape), tensor.data_ptr()))
        return tensor

    def copy(tensor, device, *, non_blocking=False):
        if isinstance(device, torch.dtype):  # where it is, already
            return to(tensor, device)
        seen.append(("copy", tensor.dtype, device, non_blocking))
        return to(tensor, "cpu", copy=True)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", copy)
    device = torch.device("cuda")
    for array in (batch.tokens, batch.targets):
        seen.clear()
        found = Runtime.to_device(SimpleNamespace(device=device), array)
        # What the dataset made is pinned as it is: no copy before, no wider type.
        place = array.__array_interface__["data"][0]
        assert seen == [
            ("pin", torch.int32, array.shape, place),
            ("copy", torch.int32, device, True),
        ]
        assert found.dtype == torch.long
        assert (found.numpy() == array).all()


@pytest.mark.parametrize("accum", [1, 4])
def test_a_step_copies_its_tokens_and_targets_once_whatever_its_micro_batches(monkeypatch, accum):
    state = TrainState(init_weights(SPEC, 0), {}, {}, 0)
    recipe = Recipe(seq_len=8, batch_size=2, grad_accum=accum)
    options = Options(device="cpu", compile=False)
    learner = choose_backend("torch").learner(SPEC, state, recipe, options)
    data = TextDataset(STREAM, seq_len=8, vocab_size=16)
    batch, _ = data.draw_batch(Cursor(), samples=2 * accum, micro_batch=2, accum=accum)
    copied, copy = [], Runtime.to_device

    def observe(runtime, array, *dtype):
        if array.ndim > 2:  # ids, and no keys of dropout
            copied.append(array)
        return copy(runtime, array, *dtype)

    monkeypatch.setattr(Runtime, "to_device", observe)
    assert np.isfinite(float(learner.step(batch, 1e-3).loss))
    ids = np.stack([batch.tokens, batch.targets])
    assert 1 <= len(copied) <= 2
    assert (np.stack(copied).reshape(ids.shape) == ids).all()


PAIRS = Recipe(objective="preference", preference=Preference())
COPIES = {
    # What crosses: ids; segments with positions; keys of dropout; weights; where documents begin.
    "documents, dropout, weights": (Recipe(), 5),
    # Ids; the reference's numbers; which tokens get logits.
    "pairs": (PAIRS, 3),
}


def make_rows(kind, A):
    """A micro-batches of two rows, with all that such a step may have."""
    ids = np.random.default_rng(0).integers(0, 16, (A, 2, 9), np.int32)
    rows = np.arange(2 * A, dtype=np.uint32).reshape(A, 2)
    batch = Batch(ids[..., :-1], ids[..., 1:].copy(), rows)
    if kind == "pairs":
        return dataclasses.replace(batch, pairs=PreferencePairs(np.ones((A, 2)), PAIRS.preference))
    starts = np.random.default_rng(1).random((A, 2, 8)) < 0.3
    weights = np.full(batch.targets.shape, 0.5, np.float32)
    return dataclasses.replace(batch, segments=starts.cumsum(-1).astype(np.int32), weights=weights)


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("accum", [1, 4])
def test_a_compiled_step_copies_what_all_micro_batches_have_at_once(monkeypatch, kind, accum):
    recipe, number = COPIES[kind]
    monkeypatch.setattr(learner_module, "compile_function", lambda function: function)
    state = TrainState(init_weights(SPEC, 0), {}, {}, 0)
    options = Options(device="cpu", compile=True)
    learner = choose_backend("torch").learner(SPEC, state, recipe, options)
    batch, copied, copy = make_rows(kind, accum), [], Runtime.to_device

    def observe(runtime, array, *dtype):
        copied.append(array)
        return copy(runtime, array, *dtype)

    # Of CUDA's kernels one asks where documents begin; on a CPU another computes.
    learner.runtime.kernels = Kernels(varlen=True)
    monkeypatch.setattr("hermes_torch.context.choose_kernel", lambda *args, **asks: "sdpa")
    monkeypatch.setattr(Runtime, "to_device", observe)
    assert np.isfinite(float(learner.step(batch, 1e-3).loss))
    assert len(copied) == number
