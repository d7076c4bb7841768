"""Steps that are not finite: left out, counted, and the same after a resume, on both backends."""

import pytest

import hermes
from hermes.errors import HermesError, NonFinite
from hermes.training.loss_guard import LossGuard
from hermes.training.metrics_file import read_metrics
from hermes.training.nonfinite import NonFinitePolicy
from tests.training.loop_world import World
from tests.training.support import tensors, write_model_that_overflows

OPTIONS = {"seq_len": 16, "batch_size": 4, "max_steps": 12, "save_every": 5, "seed": 5}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_model_that_overflows(tmp_path_factory.mktemp("nonfinite"), words=260)


def go(start, output, backend, policy, *, data="some.txt", stop_at=None, **options):
    seen = []

    def stop():
        return stop_at is not None and len(seen) >= stop_at - 1

    return hermes.finetune(
        start / "model.safetensors", start / data, config=start / "model.mal",
        tokenizer=start / "base" / "tokenizer.json", output=output, backend=backend,
        on_nonfinite=policy, report=seen.append, stop=stop, log_every=1, **OPTIONS | options,
    )  # fmt: skip


def skipped(output):
    return {r["step"]: r["skipped_steps"] for r in read_metrics(output) if "skipped_steps" in r}


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_bad_batches_are_left_out_and_a_resumed_run_is_the_same(start, tmp_path, backend):
    with pytest.raises(NonFinite, match="at learning rate"):
        go(start, tmp_path / "stops", backend, "stop")
    go(start, tmp_path / "whole", backend, "skip:4")
    counts = skipped(tmp_path / "whole")
    assert 1 <= len(counts) <= 6
    assert list(counts.values()) == list(range(1, len(counts) + 1))
    losses = {r["step"]: r["loss"] for r in read_metrics(tmp_path / "whole") if "loss" in r}
    assert sorted([*counts, *losses]) == list(range(1, 13))
    go(start, tmp_path / "parts", backend, "skip:4", stop_at=min(counts) + 1)
    assert max(r["step"] for r in read_metrics(tmp_path / "parts")) < 12
    go(start, tmp_path / "parts", backend, "skip:4", resume=True)
    assert skipped(tmp_path / "parts") == counts
    ours, theirs = (tensors(tmp_path / name / "step-00000012") for name in ("whole", "parts"))
    for a, b in zip(ours, theirs, strict=True):
        assert all((a[name] == b[name]).all() for name in a)


def test_both_backends_leave_out_the_same_steps(start, tmp_path):
    found = []
    for backend in ("torch", "mlx"):
        go(start, tmp_path / backend, backend, "skip:4")
        losses = {r["step"]: r["loss"] for r in read_metrics(tmp_path / backend) if "loss" in r}
        found.append((skipped(tmp_path / backend), losses))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)


def test_a_run_stops_after_as_many_in_a_row_also_over_a_resume(start, tmp_path):
    with pytest.raises(
        NonFinite, match=r"step 3: .* last of 3 such steps in a row.*nothing was sav"
    ):
        go(start, tmp_path / "run", "torch", "skip:3", data="every.txt")
    go(start, tmp_path / "long", "torch", "skip:9", data="every.txt", stop_at=5)
    count = max(skipped(tmp_path / "long").values())
    with pytest.raises(NonFinite, match=rf"step {count + 1}: .* last of {count + 1} such steps"):
        go(start, tmp_path / "long", "torch", f"skip:{count + 1}", data="every.txt", resume=True)


@pytest.mark.parametrize("log_every", [1, 4])
@pytest.mark.parametrize("where", ["losses", "norms"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_at_whichever_step_nothing_of_it_is_saved(where, value, log_every):
    """Of a run of 20 steps that saves every third: stopped at, or left out."""
    asked = {"log_every": log_every, "evaluates": False, "recipe": {"save_every": 3}}
    for step in range(1, 21):
        world = World(**{where: {step: value}})
        with pytest.raises(NonFinite, match=rf"^step {step}: the ") as stopped:
            list(world.run(20, **asked))
        saved = [int(line.split()[1]) for line in world.log if line.startswith("save")]
        assert saved == [*range(3, step, 3)]
        good = f"the last good checkpoint is step-{saved[-1]}" if saved else "nothing was saved"
        assert good in str(stopped.value)
        world = World(**{where: {step: value}})
        guard = LossGuard(NonFinitePolicy.parse("skip:2"))
        list(world.run(20, guard=guard, **asked))
        assert [line for line in world.log if "Skipped" in line] == [f"record Skipped {step}"]
        assert "save 20" in world.log


@pytest.mark.parametrize("text", ["", "skip:", "skip:0", "skip:-1", "skip:x", "halt"])
def test_other_policies_are_refused(text):
    with pytest.raises(
        HermesError, match="--on-nonfinite must be stop, skip, skip:N, rollback or rollback:N"
    ):
        NonFinitePolicy.parse(text)
