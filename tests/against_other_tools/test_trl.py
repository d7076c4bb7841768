"""Ten steps of DPO beside TRL's trainer: the same model, pairs, order and optimizer, float32."""

from dataclasses import replace

import pytest

from hermes.recipe import OptimizerRecipe
from tests.against_other_tools.support import FLOAT32
from tests.finetuning.support import small_checkpoint, some_pairs

pytest.importorskip("trl", reason="pip install 'hermes-llm[trl]'")
from benchmarks.dpo_trl import Setting, train_with_hermes, train_with_trl

STEPS = 10


@pytest.fixture
def setting(tmp_path):
    """Pairs whose sides begin with a space, so that prompt and completion are tokens apart."""
    pairs = [
        {"prompt": p["prompt"], "chosen": f" {p['chosen']}", "rejected": f" {p['rejected']}"}
        for p in some_pairs(4 * STEPS)
    ]
    return Setting(small_checkpoint(tmp_path / "base"), pairs, STEPS, 4, 64, lr=1e-3)


def apart(ours, theirs):
    """The largest difference of any measure of any step, relative where it is above 1."""
    assert len(ours.measures) == len(theirs.measures) == STEPS
    return max(
        abs(one[name] - value) / max(1.0, abs(value))
        for one, other in zip(ours.measures, theirs.measures, strict=True)
        for name, value in other.items()
    )


RULES = {
    "dpo": ({}, {}),
    "hinge": ({"loss": "hinge"}, {"loss_type": ["hinge"]}),
    "reference precomputed": ({}, {"precompute_ref_log_probs": True}),
}


@pytest.mark.parametrize(("rule", "options"), RULES.values(), ids=RULES)
def test_losses_rewards_and_margins_are_trls(setting, tmp_path, rule, options):
    expected = train_with_trl(setting, tmp_path / "theirs", **options)
    assert expected.measures[-1]["reward_margin"] > 0.1  # so much was learnt
    for backend in ("torch", "mlx"):
        found = train_with_hermes(replace(setting, rule=rule), tmp_path / backend, backend)
        assert apart(found, expected) < FLOAT32


@pytest.mark.parametrize("field", [{"beta2": 0.999}, {"weight_decay": 0.0}], ids=str)
def test_the_comparison_can_fail(setting, tmp_path, field):
    expected = train_with_trl(setting, tmp_path / "theirs")
    other = replace(setting, optimizer=OptimizerRecipe(**field))
    assert apart(train_with_hermes(other, tmp_path / "ours"), expected) > 5 * FLOAT32
