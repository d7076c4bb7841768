"""Steps are made of as many kernels, graphs, bytes and waits as before."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch

from hermes.interface import find_backend
from hermes_mlx.work_counts import IN_TRAINING, ON_CPU
from hermes_torch import ops
from tests.backends import counting

RENEW = "if that is meant, run `python -m tests.backends.counting` and say why in the commit"


def test_steps_are_made_of_what_they_were():
    expected = json.loads(counting.GOLDEN.read_text(encoding="utf-8"))
    found = counting.count_everything()
    if found["versions"] != expected["versions"]:
        pytest.skip(f"counted with {expected['versions']}, here are {found['versions']}")
    for step, counts in expected.items():
        assert found[step] == counts, f"{step} changed; {RENEW}"


def test_a_step_is_one_graph_a_pass_and_one_wait():
    """What the stored counts say of design, whatever the versions."""
    expected = json.loads(counting.GOLDEN.read_text(encoding="utf-8"))
    assert expected["torch compiled training"]["graphs"] == 2
    assert expected["mlx compiled training"]["graphs"] == 2  # both passes, and the update
    decoding = [f"{name} {kind}" for name in ("torch", "mlx") for kind in ("decoding", "rows")]
    for step in ("torch training", "mlx training", "mlx joined decoding", *decoding):
        assert expected[step]["host_reads"] == 1, step
    # One for each width of the buffers that is read, and so one for a short text.
    assert expected["torch captured decoding"]["graphs"] == 1
    # q, k and v are one product of a model that only runs, and up and gate another.
    apart, joined = (expected[f"mlx {kind}decoding"]["kernels"] for kind in ("", "joined "))
    assert joined < apart
    # Begun behind the one before, of which nothing has been read yet.
    for step in ("torch device step", "mlx device step"):
        assert expected[step]["host_reads"] == 0, step


def test_the_parts_of_mlx_step_are_nearly_all_of_it():
    """Without the sum of micro-batches' gradients, their division, and the loss's factor."""
    expected = json.loads(counting.GOLDEN.read_text(encoding="utf-8"))
    micro_batch = expected["mlx passes"]["kernels"] + expected["mlx loss"]["kernels"]
    parts = 2 * micro_batch + expected["mlx update"]["kernels"]
    assert 0.9 < parts / expected["mlx training"]["kernels"] < 1


def test_attention_that_is_written_out_shows_in_the_counts(monkeypatch):
    """A regression of the kind that the counts are for: the same numbers, by more memory."""
    decoder, token = counting.make_decoder("torch"), np.zeros((1, 1), np.int32)
    fused = counting.count_torch(lambda: decoder.advance(token))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", write_out)
    written_out = counting.count_torch(lambda: decoder.advance(token))
    assert written_out["kernels"] > fused["kernels"] + 2
    assert ops.FAST.attention is ops.attention


def write_out(q, k, v, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """Attention over all keys, as one query has it."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return torch.softmax(scale * (q @ k.mT), -1) @ v


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_a_read_of_the_loss_is_counted_once(name):
    learner, batch = counting.make_learner(name), counting.make_batch()
    backend = find_backend(name)
    assert backend.count_work(lambda: learner.step(batch, 1e-3)).host_reads == 0
    assert backend.count_work(lambda: float(learner.step(batch, 1e-3).loss)).host_reads == 1


def test_mlx_writes_attention_out_for_a_reason_of_the_device_that_computes(monkeypatch):
    """The CPU of a Mac is one, though a GPU is there; on the GPU only training has a reason."""
    backend, batch = find_backend("mlx"), counting.make_batch()
    learner, decoder = counting.make_learner("mlx"), counting.make_decoder("mlx")
    token = np.zeros((1, 1), np.int32)

    def find_reasons():
        steps = lambda: float(learner.step(batch, 1e-3).loss), lambda: decoder.advance(token)
        found = [backend.count_work(run) for run in steps]
        assert [counts.fused_attention for counts in found] == [0, 0]
        return [counts.unfused_reason for counts in found]

    monkeypatch.setattr(mx, "is_available", lambda device: True)
    assert find_reasons() == [ON_CPU, ON_CPU]
    for runtime in (learner.runtime, decoder._runtime):
        monkeypatch.setattr(runtime, "is_on_gpu", True)
    assert find_reasons() == [IN_TRAINING, ""]


@pytest.mark.parametrize("read", [float, int, bool, lambda x: x.item(), lambda x: x.tolist()])
def test_every_way_in_which_python_reads_an_array_of_mlx_is_counted(read):
    assert find_backend("mlx").count_work(lambda: read(mx.array(1.0))).host_reads == 1
