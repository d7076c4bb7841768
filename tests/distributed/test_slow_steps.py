"""A rank at work on a long step is no rank that hangs, where nobody gave a limit."""

import os
import threading
import time

import mlx.core as mx
import pytest

import hermes_mlx.learner
from hermes.distributed.process_group import RankInfo
from hermes_mlx.process_group import ProcessGroup
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec
from tests.distributed.support import MLX, TORCH, train

SLOW = 0.05  # seconds of a step that is slow beside the others


@pytest.fixture
def watch_limits(monkeypatch):
    """The limits of MLX's watches, in the order in which they begin."""
    limits, plain = [], threading.Timer

    def record(seconds, *rest):
        limits.append(seconds)
        return plain(seconds, *rest)

    monkeypatch.setattr(threading, "Timer", record)
    return limits


@pytest.mark.parametrize("is_given", [True, False])
def test_a_watch_of_mlx_has_as_long_as_a_step_took_where_no_limit_was_given(watch_limits, is_given):
    rank_info = RankInfo(timeout=45.0, is_timeout_given=is_given)
    group = ProcessGroup(rank_info, mx.distributed.init())
    time.sleep(SLOW)  # a rank may tokenize for long before its first step
    group.all_reduce_sum([1.0])
    with group.watch("the gradients of step 1"):
        pass  # a GPU's step is only queued
    group.mark_first_step_done()
    time.sleep(SLOW)  # another reads the weights, which waits for the GPU
    group.all_reduce_sum([1.0])
    first, later = set(watch_limits[:-1]), len(watch_limits)
    assert first == {600.0}
    group.begin()
    with group.watch("the gradients of step 2"):
        pass
    group.all_reduce_sum([1.0])  # waits for that step, too
    *_, second, votes = watch_limits
    assert len(watch_limits) == later + 2
    if is_given:
        assert second == votes == 45.0
    else:
        assert 45 + SLOW <= second <= votes < 45 + 100 * SLOW + 60


def test_peers_of_mlx_may_be_silent_for_long_while_a_shape_is_compiled(watch_limits, monkeypatch):
    monkeypatch.setattr(hermes_mlx.learner, "compile_function", lambda function: function)
    monkeypatch.setattr(hermes_mlx.learner, "uses_compile", lambda runtime: True)
    group = ProcessGroup(RankInfo(timeout=45.0, is_timeout_given=True), mx.distributed.init())
    group.mark_first_step_done()
    learner, seen = make_learner("mlx", make_spec(), None, FLOAT32), []
    learner._process_group, learner._distributed = group, True
    for length in (10, 10, 20):
        watch_limits.clear()
        float(learner.step(make_batch(T=length), 1e-3).loss)
        seen.append(set(watch_limits))
    assert seen == [{600.0}, {45.0}, {600.0}]
    watch_limits.clear()
    group.all_reduce_sum([1.0])
    assert watch_limits == [45.0]


PLANTED = """
import os, sys, time
import hermes.distributed.join as join
join.DEFAULT_TIMEOUT = LIMIT
if "MLX_RANK" in os.environ or "RANK" in os.environ or "spawn_main" in str(sys.orig_argv):
    import MODULE as module
    plain = module.Learner.step
    waits = {"__name__": "WAITS", "time": time}
    def step(self, *args):
        if self._steps_done == 0:
            exec("time.sleep(SECONDS)", waits)  # as if it waited for its GPU there
        return plain(self, *args)
    module.Learner.step = step
"""
LIMIT = 20  # seconds of silence: a busy machine takes some to start a process


@pytest.mark.long
@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize("how", [MLX, TORCH])
def test_a_first_step_beyond_the_default_limit_is_no_hang(
    corpus, tmp_path, monkeypatch, how, is_given
):
    name = how[1]
    text = PLANTED.replace("MODULE", f"hermes_{name}.learner").replace("LIMIT", str(LIMIT))
    waits = {"mlx": "hermes_mlx.learner", "torch": "hermes_torch.process_group"}[name]
    text = text.replace("WAITS", waits).replace("SECONDS", "300" if is_given else "30")
    (tmp_path / "sitecustomize.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    more = ["--peer-timeout", LIMIT] if is_given else []
    run = tmp_path / "run"
    code = 76 if is_given else 0
    said = train(corpus, "--output", run, "--max-steps", 3, *how, *more, code=code)
    if is_given:
        assert f"it waited for {LIMIT} s before the first step, as did every other (" in said
    else:
        assert "Error" not in said
        assert (run / "step-00000003").is_dir()
