"""float16: the loss scale falls and grows, is saved and resumed, and the policy comes after it."""

import json

import pytest
import yaml

from hermes.checkpoint import open_checkpoint
from hermes.errors import CheckpointError, HermesError, NonFinite
from hermes.interface import LossScale
from hermes.recipe import LossScaling
from hermes.training.metrics_file import read_metrics
from hermes.training.nonfinite import lower_loss_scale
from tests.training.support import Runs, corpus_in, tensors

# The first steps overflow, and after three good ones the scale is tried higher.
EAGER = LossScaling(initial=2.0**26, growth=4.0, backoff=2.0**-4, interval=3)


@pytest.fixture
def runs(tmp_path):
    return Runs(corpus_in(tmp_path), tmp_path)


def read_scales(run):
    return {line["step"]: line["loss_scale"] for line in read_metrics(run) if "loss_scale" in line}


def list_overflows(run):
    return [line["step"] for line in read_metrics(run) if "next_loss_scale" in line]


@pytest.mark.parametrize(("backend", "other"), [("torch", "mlx"), ("mlx", "torch")])
def test_a_run_in_float16_scales_its_loss_and_another_backend_continues(
    runs, tmp_path, backend, other
):
    given = {"precision": "float16", "loss_scale": EAGER, "save_every": 5}
    runs("whole", backend=backend, **given)
    scales, overflows = read_scales(tmp_path / "whole"), list_overflows(tmp_path / "whole")
    assert sorted(scales) == list(range(1, 13))
    assert scales[1] == EAGER.initial
    assert 1 in overflows
    assert len(overflows) < 9
    assert not any("skipped_steps" in line for line in read_metrics(tmp_path / "whole"))
    assert any(scales[step + 1] > scales[step] for step in range(1, 12))
    # Stopped and resumed it is the same to the bit, with the scale from its checkpoint.
    runs("parts", backend=backend, stop_at=7, **given)
    (newest,) = sorted((tmp_path / "parts").glob("step-*"))[-1:]
    progress = json.loads((newest / "progress.json").read_text())
    assert progress["loss_scale"]["scale"] == scales[progress["step"] + 1]
    assert open_checkpoint(newest).state.loss_scale == LossScale(**progress["loss_scale"])
    runs("parts", backend=backend, resume=True)
    assert read_scales(tmp_path / "parts") == scales
    ours, theirs = (tensors(tmp_path / name / "step-00000012") for name in ("whole", "parts"))
    for a, b in zip(ours, theirs, strict=True):
        assert all((a[name] == b[name]).all() for name in a)
    runs("moved", backend=backend, stop_at=7, **given)
    runs("moved", backend=other, resume=True)
    assert read_scales(tmp_path / "moved")[8] == scales[8]
    written = yaml.safe_load((tmp_path / "moved" / "run.yaml").read_text())
    assert written["loss_scale"] == EAGER.initial
    assert written["set"]["loss_scaling.interval"] == 3


def test_a_run_resumed_in_another_precision_has_no_scale(runs, tmp_path):
    runs(precision="float16", max_steps=2)
    runs(precision="float32", max_steps=4, resume=True)
    assert sorted(read_scales(tmp_path / "run")) == [1, 2]
    assert open_checkpoint(tmp_path / "run" / "step-00000004").state.loss_scale is None


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_an_overflow_at_the_least_scale_is_the_policys(runs, backend):
    stuck = LossScaling(initial=2.0**31, minimum=2.0**30)
    given = {"precision": "float16", "loss_scale": stuck, "backend": backend}
    with pytest.raises(NonFinite, match=r"^step 2: the gradient norm is .*, so training stopped"):
        runs("stops", **given)
    with pytest.raises(NonFinite, match=r"^step 4: .* the last of 3 such steps in a row"):
        runs("skips", on_nonfinite="skip:3", **given)


def test_a_loss_that_is_not_finite_is_not_the_scales():
    rule = LossScaling()
    assert lower_loss_scale(3.0, 8.0, rule) == 4.0
    assert lower_loss_scale(3.0, 1.5, rule) == 1.0
    assert lower_loss_scale(3.0, 1.0, rule) is None
    assert lower_loss_scale(float("nan"), 8.0, rule) is None
    assert lower_loss_scale(3.0, None, rule) is None


def test_settings_of_another_precision_and_impossible_ones_are_refused(runs, tmp_path):
    with pytest.raises(HermesError, match=r"^loss_scale belongs to precision float16, and the run"):
        runs(loss_scale=1024, precision="bfloat16")
    assert not (tmp_path / "run").exists()
    for name, wrong in {
        "initial": 0.5, "growth": 1.0, "backoff": 1.0, "interval": 0, "minimum": 0.0,
    }.items():  # fmt: skip
        named = "loss_scale" if name == "initial" else f"loss_scaling.{name}"
        with pytest.raises(HermesError, match=f"^{named} must be"):
            LossScaling(**{name: wrong})


def test_a_checkpoint_with_an_impossible_scale_is_damaged():
    from hermes.checkpoint.progress import Progress, read_progress, render_progress
    from hermes.recipe import Recipe

    progress = Progress("a" * 16, 1, Recipe(), loss_scale=LossScale(2.0))
    data = render_progress(progress)
    assert read_progress(data, "progress.json") == progress
    with pytest.raises(CheckpointError, match="a loss scale is above 0"):
        read_progress(data.replace(b'"scale": 2.0', b'"scale": -2.0'), "progress.json")
