"""--gradient-noise-scale in runs: what it says, that it changes nothing, resumes and refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hermes.checkpoint import open_checkpoint
from hermes.errors import HermesError
from hermes.interface import Batch
from hermes.numerics.gradient_noise import DECAY
from hermes.training.metrics_file import read_metrics
from hermes_numpy.gradient_noise import estimate_gradient_noise
from tests.training.support import tensors

KEYS = ("grad_noise_scale", "grad_signal", "grad_noise")
MEASURED = {"gradient_noise_scale": True, "grad_accum": 2, "batch_size": 2}


def read_noise(run):
    return {
        line["step"]: {key: line[key] for key in KEYS if key in line}
        for line in read_metrics(run)
        if "loss" in line
    }


def watch_batches(monkeypatch, learner_class):
    """The gradients of each step's first micro-batch and of the whole, in a list."""
    seen, step = [], learner_class.step

    def watched(self, batch: Batch, lr):
        first = replace(
            batch,
            tokens=batch.tokens[:1],
            targets=batch.targets[:1],
            rows=batch.rows[:1],
            global_counts=None,
        )
        both = []
        for one in (first, batch):
            _, grads = self.grads(replace(one, measures_noise=False))
            flat = np.concatenate([np.ravel(grads[name]) for name in grads]).astype(np.float64)
            both.append((flat, np.ones(one.num_targets)))
        seen.append(both)
        return step(self, batch, lr)

    monkeypatch.setattr(learner_class, "step", watched)
    return seen


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_metrics_have_the_averages_of_the_definition_and_weights_stay(
    go, tmp_path, monkeypatch, backend
):
    given = {"backend": backend, "precision": "float64", "max_steps": 5}
    go("plain", **given, grad_accum=2, batch_size=2)
    learner = __import__(f"hermes_{backend}.learner", fromlist=["Learner"]).Learner
    seen = watch_batches(monkeypatch, learner)
    go("measured", **given, **MEASURED)
    signal = noise = weight = 0.0
    lines = read_noise(tmp_path / "measured")
    for number, ((small, few), (big, many)) in enumerate(seen, 1):
        own = estimate_gradient_noise(small, big, few, many)
        signal, noise = (
            DECAY * old + (1 - DECAY) * new for old, new in zip((signal, noise), own, strict=True)
        )
        weight = DECAY * weight + 1 - DECAY
        expected = {"grad_signal": signal / weight, "grad_noise": noise / weight}
        if signal > 0:
            expected["grad_noise_scale"] = noise / signal
        assert lines[number] == pytest.approx(expected, rel=1e-8)
    assert len(seen) == 5
    assert not any(read_noise(tmp_path / "plain").values())
    for a, b in zip(*(tensors(tmp_path / n / "step-00000005") for n in ("plain", "measured"))):  # noqa: B905
        assert all((a[name] == b[name]).all() for name in a)
    progress = json.loads((tmp_path / "measured/step-00000005/progress.json").read_text())
    assert progress["gradient_noise"] == pytest.approx([signal, noise, weight], rel=1e-8)
    plain = json.loads((tmp_path / "plain/step-00000005/progress.json").read_text())
    assert "gradient_noise" not in plain


def test_a_resumed_run_has_the_averages_of_an_unbroken_one(go, tmp_path):
    go("whole", **MEASURED, save_every=4)
    go("parts", **MEASURED, save_every=4, stop_at=6, log_every=5)
    go("parts", **MEASURED, resume=True, save_every=4)
    whole, parts = (read_noise(tmp_path / name) for name in ("whole", "parts"))
    assert parts[12] == whole[12]
    assert len(parts[12]) >= 2
    saved = open_checkpoint(tmp_path / "parts/step-00000012").progress.gradient_noise
    assert saved == open_checkpoint(tmp_path / "whole/step-00000012").progress.gradient_noise


def test_steps_that_overflow_are_left_out(go, tmp_path):
    from hermes.recipe import LossScaling

    eager = LossScaling(initial=2.0**26, growth=4.0, backoff=2.0**-4, interval=3)
    go("half", **MEASURED, precision="float16", loss_scale=eager)
    over = [line["step"] for line in read_metrics(tmp_path / "half") if "next_loss_scale" in line]
    assert over
    lines = read_noise(tmp_path / "half")
    good = len(lines)
    saved = open_checkpoint(tmp_path / "half/step-00000012").progress.gradient_noise
    assert saved[2] == pytest.approx(1 - DECAY**good)
    assert all(np.isfinite(list(line.values())).all() for line in lines.values())


def test_it_is_refused_where_there_is_nothing_to_compare(go, monkeypatch):
    with pytest.raises(HermesError) as error:
        go("one", gradient_noise_scale=True)
    assert str(error.value) == (
        "gradient_noise_scale=True compares a micro-batch with the whole step, so it needs "
        "grad_accum of at least 2, and it is 1"
    )
    with pytest.raises(HermesError) as error:
        go("split", **MEASURED, shard="full")
    assert str(error.value) == (
        "gradient_noise_scale=True needs gradients that are whole in each process, and shard "
        "splits them; leave out one of the two"
    )
    from hermes_torch.learner import Learner as TorchLearner

    step = TorchLearner.step
    monkeypatch.setattr(
        TorchLearner,
        "step",
        lambda self, batch, lr: replace(step(self, batch, lr), first_norm=None),
    )
    with pytest.raises(HermesError, match="does not report first_norm"):
        go("other", **MEASURED)
