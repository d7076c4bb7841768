"""Runs by other optimizers than AdamW, with groups, an average of weights and cool-downs."""

import numpy as np
import pytest

from hermes.api_chat import chat
from hermes.api_evaluation import evaluate
from hermes.api_generation import generate
from hermes.api_models import convert
from hermes.api_serving import open_served_model
from hermes.checkpoint import open_checkpoint
from hermes.errors import CheckpointError, HermesError
from hermes.inference.batch_generation import run_requests
from hermes.model_loading import load
from hermes.optimizer_recipe import OptimizerRecipe
from hermes.training.metrics_file import read_metrics
from hermes_cli.main import run
from tests.training.support import losses

GROUPS = (("*.0.self_attn.*", "lr_scale=0.5"), ("*embed_tokens*", "lr=1e-3,weight_decay=0"))


def slots(path):
    """What a checkpoint keeps beside its weights, by slot and name."""
    kept = open_checkpoint(path).state.slots
    return {f"{slot}.{name}": np.array(held[name]) for slot, held in kept.items() for name in held}


@pytest.mark.parametrize("optimizer", ["muon", "adafactor"])
def test_a_run_goes_on_with_the_other_backend_as_with_its_own(go, optimizer):
    """Seven steps on torch and five on mlx are twelve on torch, but for float32's rounding."""
    settings = {"optimizer": optimizer, "group": GROUPS, "ema": 0.9, "max_steps": 12}
    whole = go("whole", **settings)
    go("half", stop_at=7, **settings)
    moved = go("half", resume=True, backend="mlx")
    assert moved.steps == whole.steps == 12
    one, other = losses(go.folder / "half"), losses(go.folder / "whole")
    assert max(abs(one[step] - other[step]) for step in range(1, 13)) < 1e-4
    kept, expected = slots(moved.checkpoint), slots(whole.checkpoint)
    assert kept.keys() == expected.keys()
    assert {name.split(".")[0] for name in kept} == {
        "muon": {"exp_avg", "exp_avg_sq", "ema"},
        "adafactor": {"exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "ema"},
    }[optimizer]
    for name, value in expected.items():
        assert np.sqrt(np.mean(np.square(kept[name] - value))) < 0.01 * np.sqrt(
            np.mean(np.square(value))
        ), name


def test_run_yaml_repeats_groups_points_and_the_optimizer(go):
    """Of a run started from Python; the repetition by --config has the same losses."""
    go("run", optimizer=OptimizerRecipe("muon", momentum=0.9), group=GROUPS, ema=0.5, max_steps=4,
         schedule="points", lr_point=(("0", "1"), ("100%", "0.2")), warmup_steps=0)  # fmt: skip
    text = (go.folder / "run/run.yaml").read_text()
    assert 'optimizer: "muon"' in text
    assert 'group: [["*.0.self_attn.*", "lr_scale=0.5"]' in text
    assert 'lr_point: [["0", "1"], ["100%", "0.2"]]' in text
    tokenizer, spec = go.folder / "run/tokenizer.json", go.folder / "little.mal"
    spec.write_text(open_spec(go.folder / "run"), encoding="utf-8")
    output = go.folder / "again"
    arguments = ["train", "--config", go.folder / "run/run.yaml", "--output", output, "--model",
                 spec, "--tokenizer", tokenizer]  # fmt: skip
    assert run(list(map(str, arguments))) == 0
    assert losses(output) == losses(go.folder / "run")
    rates = [line["lr"] for line in read_metrics(output) if "lr" in line]
    np.testing.assert_allclose(rates, 3e-3 * np.array([1, 0.8, 0.6, 0.4]), rtol=1e-6)


def open_spec(folder):
    return next(folder.glob("step-*/model.mal")).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": (("lm_head.*", "lr=1"),)},
         "group 'lm_head.*' matches no tensor that is trained; the head is tied, so name "
         "'model.embed_tokens.weight'"),
        ({"group": (("*.q_prog.*", "lr=1"),)},
         "group '*.q_prog.*' matches no tensor that is trained; names are as "
         "'model.embed_tokens.weight'"),
        ({"group": (("*", "rate=1"),)},
         "group '*' has no setting 'rate'; it takes 'lr', 'lr_scale' and "
         "'weight_decay', as in 'lr=0.1,weight_decay=0'"),
        ({"group": (("*", "lr=1,lr_scale=2"),)}, "group '*' has both lr and lr_scale; keep one"),
        ({"optimizer": "muon", "freeze": ("model.layers.*",)},
         "optimizer muon trains the matrices inside blocks, and this run trains none of them; "
         "choose adamw"),
        ({"optimizer": "sgd"},
         "optimizer.name must be one of adamw, muon, normuon, lion, adafactor, got 'sgd'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_is_written(go, settings, message):
    with pytest.raises(HermesError) as caught:
        go("run", **settings)
    assert str(caught.value).startswith(message)
    assert not (go.folder / "run").exists()


def test_settings_of_another_optimizer_are_refused():
    with pytest.raises(HermesError, match=r"^optimizer.eps has no meaning with lion; leave it out"):
        OptimizerRecipe("lion", eps=1e-6)
    with pytest.raises(HermesError, match=r"^optimizer.momentum has no meaning with adamw; "):
        OptimizerRecipe(momentum=0.9)


class TestAverage:
    @pytest.mark.parametrize("backend", ["torch", "mlx"])
    def test_it_is_evaluated_beside_the_weights_which_go_on_unchanged(self, go, backend):
        """The averaged loss is that of the averaged weights; the run is the same without one."""
        held_out = go.folder / "held.txt"
        held_out.write_text("the cat sat on a mat and ran off to see what else " * 20, "utf-8")
        settings = {"eval_every": 3, "save_every": 3, "max_steps": 6, "backend": backend,
                    "val_data": held_out, "val_fraction": 0.0}  # fmt: skip
        done = go("run", ema=0.5, keep_best="val_loss_ema", **settings)
        go("plain", **settings)
        assert losses(go.folder / "run") == losses(go.folder / "plain")
        found = [line for line in read_metrics(go.folder / "run") if "val_loss" in line]
        assert [line["step"] for line in found] == [3, 6]
        # The windows of hermes eval are not the run's to the last token, so the two losses are
        # compared by how far they are apart.
        plain, averaged = (
            evaluate(done.checkpoint, held_out, seq_len=16, backend=backend, use_ema=use_ema)
            for use_ema in (False, True)
        )
        apart = found[-1]["val_loss_ema"] - found[-1]["val_loss"]
        assert abs(apart) > 0.02
        assert averaged.val_loss - plain.val_loss == pytest.approx(apart, rel=0.02)

    def test_it_is_converted_and_generated_with(self, go):
        done = go("run", ema=0.9, max_steps=4)
        convert(done.checkpoint, go.folder / "out", to="hermes", use_ema=True, backend="numpy")
        averaged = open_checkpoint(done.checkpoint).averaged_params
        for name, value in open_checkpoint(go.folder / "out").params.items():
            np.testing.assert_array_equal(value, averaged[name])
        one, other = (
            generate(path, "the cat", backend="torch", temperature=0, max_tokens=8, use_ema=use)
            for path, use in ((done.checkpoint, True), (go.folder / "out", False))
        )
        assert one[0].text == other[0].text
        one, other = (
            "".join(chat(path, backend="torch", temperature=0, max_tokens=8, use_ema=use).say("a"))
            for path, use in ((done.checkpoint, True), (go.folder / "out", False))
        )
        assert one == other
        served = open_served_model(done.checkpoint, backend="torch", use_ema=True)
        with pytest.raises(CheckpointError, match="has no average of its weights"):
            open_served_model(go.folder / "out", backend="torch", use_ema=True)
        model = load(go.folder / "out", "torch")
        request = model.make_request("the cat", max_tokens=4)
        one, other = (run_requests(e, [request])[0] for e in (served.engine, model.make_engine()))
        assert one.tokens == other.tokens

    def test_a_model_without_one_is_refused(self, go):
        done = go("run", max_steps=2)
        with pytest.raises(CheckpointError, match="has no average of its weights; train with"):
            load(done.checkpoint, "torch", use_ema=True)
        with pytest.raises(HermesError, match="mlx-adapter has no average of weights"):
            convert(done.checkpoint, go.folder / "out", to="mlx-adapter", use_ema=True)


class TestCooldown:
    def test_it_goes_on_from_a_stable_checkpoint_to_a_falling_rate(self, go):
        """The first loss is that of the long run's next step, of the same weights and batch."""
        go("long", schedule="constant", max_steps=10, save_every=6)
        done = go("short", schedule="wsd", cooldown_from=go.folder / "long/step-00000006",
                    max_steps=0, decay_steps=4, min_lr_ratio=0.0, warmup_steps=2)  # fmt: skip
        assert done.steps == 10
        one, other = losses(go.folder / "short"), losses(go.folder / "long")
        assert list(one) == [7, 8, 9, 10]
        assert one[7] == other[7]
        lines = [line for line in read_metrics(go.folder / "short") if "lr" in line]
        np.testing.assert_allclose(
            [line["lr"] for line in lines], 3e-3 * np.array([0.75, 0.5, 0.25, 0]), atol=1e-12
        )
        long = open_checkpoint(go.folder / "long/step-00000006").progress
        assert open_checkpoint(done.checkpoint).progress.run != long.run

    def test_it_is_resumed_like_any_run(self, go):
        go("long", schedule="constant", max_steps=10, save_every=6)
        settings = {"schedule": "wsd", "max_steps": 0, "decay_steps": 4,
                    "cooldown_from": go.folder / "long/step-00000006"}  # fmt: skip
        whole = go("whole", **settings)
        go("half", stop_at=8, **settings)
        resumed = go("half", resume=True, max_steps=10, schedule="wsd")
        assert resumed.steps == 10
        for name, value in slots(whole.checkpoint).items():
            np.testing.assert_array_equal(slots(resumed.checkpoint)[name], value)

    def test_a_fall_of_no_step_is_refused(self, go):
        go("long", schedule="constant", max_steps=10, save_every=6)
        with pytest.raises(HermesError, match=r"max_steps is 6, and .* is of step 6"):
            go("short", schedule="wsd", max_steps=6,
               cooldown_from=go.folder / "long/step-00000006")  # fmt: skip

    @pytest.mark.parametrize(
        ("schedule", "step", "why"),
        [
            ({"schedule": "cosine"}, 6, "its schedule is cosine"),
            ({"schedule": "wsd", "decay_ratio": 0.5}, 6, "its learning rate falls since step 5"),
            ({"schedule": "constant", "warmup_steps": 8}, 6, "its learning rate is still rising"),
        ],
    )
    def test_any_other_checkpoint_is_refused(self, go, schedule, step, why):
        go("long", max_steps=10, save_every=6, **schedule)
        with pytest.raises(HermesError, match=f"cannot be cooled down from: {why}; choose"):
            go("short", cooldown_from=go.folder / f"long/step-{step:08d}", schedule="wsd",
                 max_steps=0)  # fmt: skip
