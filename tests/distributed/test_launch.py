"""`hermes train` by several processes: the same run, stopped by any, ended with any."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from hermes.batch import Batch
from hermes.distributed.agreement import all_or_none
from hermes.errors import HermesError, StorageError
from hermes.training.coordination import RankCoordinator
from hermes.training.training_data import Mean
from hermes_cli.launch.launcher import hold_free_ports
from tests.cli.support import drop_stages
from tests.distributed.support import (
    COMMON,
    HERMES,
    MLX,
    TORCH,
    WAIT,
    Said,
    alive,
    begun,
    end,
    last_saved,
    lines,
    train,
    workers,
)
from tests.waiting import wait_until


def test_what_one_process_refuses_all_refuse_with_its_name_and_exit_code():
    undone = []
    with pytest.raises(StorageError, match=r"^rank 2: the disk is full$"):
        all_or_none(Said("", "74 the disk is full"), lambda: "made", undone.append)
    assert undone == ["made"]
    assert all_or_none(Said("", ""), lambda: "made") == "made"


def test_a_signal_to_any_process_stops_all():
    class Learner:
        def digests(self):
            return {}

    assert RankCoordinator(Said("0", "1"), Learner(), lambda: False).should_stop()
    assert not RankCoordinator(Said("0", "0"), Learner(), lambda: False).should_stop()


def test_weights_that_differ_stop_the_run_and_name_the_first_tensor():
    class Learner:
        def digests(self):
            return {"a": 1, "b": 2, "c": 3}

    coordinator = RankCoordinator(Said('{"a": 1, "b": 9, "c": 9}'), Learner(), lambda: False)
    with pytest.raises(HermesError, match=r"^tensor 'b' is not the same in rank 0 and rank 1"):
        coordinator.should_stop_after_step()


def test_peers_may_compile_in_the_first_evaluation_and_after_batches_of_another_length():
    group, allowed = Said(), []
    group.allow_compiling = lambda: allowed.append(1) or nullcontext()
    coordinator = RankCoordinator(group, None, lambda: False)

    def evaluate(*lengths):
        """After batches of these lengths: whether the others may be silent for long."""
        for length in lengths:
            ids = np.zeros((1, 1, length), np.int32)
            batch = Batch(ids, ids, np.zeros((1, 1), np.uint32))
            coordinator.add_global_counts(replace(batch, global_counts=batch.own_counts))
        allowed.clear()
        with coordinator.expect_evaluation():
            return bool(allowed)

    assert evaluate()  # of a resumed run whose last evaluation is missing
    assert [evaluate(8), evaluate(8), evaluate(), evaluate(8, 16), evaluate(16, 8)] == [
        True, False, False, True, False,
    ]  # fmt: skip


def test_measurements_are_means_over_all_processes_by_what_each_had():
    for other, mean in ((1.0, 1.0), (0.0, 0.75)):
        group = Said('["accuracy"]', totals=[other, 1])
        coordinator = RankCoordinator(group, None, lambda: False)
        assert coordinator.average_measures({"accuracy": 1.0}, 3) == {"accuracy": mean}


def test_a_mean_of_what_only_some_processes_have_counts_those_alone():
    group = Said('["loss/web", "loss/code"]', totals=[6.0, 2, 3.0, 1])
    coordinator = RankCoordinator(group, None, lambda: False)
    found = coordinator.average_measures({"loss/web": Mean(8.0, 2)}, 5)
    assert found == {"loss/web": 3.5, "loss/code": 3.0}
    group = Said('["loss/web"]', totals=[0.0, 0])
    assert RankCoordinator(group, None, lambda: False).average_measures({}, 0) == {}


def spoken(folder, command):
    """What a command said that ended well."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def assert_same_run(one, other):
    """To 1e-11, all but how fast."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-11)


@pytest.mark.parametrize("how", [MLX, pytest.param(TORCH, marks=pytest.mark.long)], ids=str)
def test_two_processes_make_the_run_of_one_which_goes_on_with_it(
    corpus, tmp_path, monkeypatch, how
):
    """One log, one checkpoint; stopped after four updates by two, gone on with by one."""
    alone, run, scratch = tmp_path / "alone", tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    train(corpus, "--output", alone, "--grad-accum", 4, "--max-steps", 6, *how[:2])
    said = train(corpus, "--output", run, "--grad-accum", 2, "--max-steps", 4, *how)
    assert said.count("done: ") == 1
    assert said.count("run ") == 1
    assert "steps of 4 sequences in 2 parts on 2 processes" in said
    assert [x.name for x in run.glob("step-*")] == ["step-00000004"]
    on = [*HERMES, "train", "--resume", "--output", run, "--max-steps", 6, "--device", "cpu"]
    said = spoken(corpus, [*on, *how[:2]])
    assert (
        "grad_accum is 4 on 1 process, where it was 2 on 2: a step takes 4 samples as before\n"
    ) in said
    held = [line for line in lines(run) if not (line["step"] == 4 and "val_loss" in line)]
    assert_same_run(lines(alone), held)
    again = [*HERMES, "train", "--config", run / "run.yaml", "--output", tmp_path / "again"]
    said = spoken(corpus, [*again, *how[2:]])
    assert (
        "grad_accum is 2 on 2 processes, where it was 4 on 1: a step takes 4 samples as before\n"
    ) in said
    assert_same_run(lines(alone), lines(tmp_path / "again"))
    # torch keeps what it compiles there.
    assert not [path for path in scratch.iterdir() if not path.name.startswith("torchinductor_")]


def test_the_split_is_kept_or_refused_once(corpus, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff")  # no text, as each rank finds
    said = train(corpus, "--output", tmp_path / "x", *MLX, "--data", tmp_path / "bad.txt", code=1)
    assert said.count("Error: ") == 1
    assert "bad.txt" in said
    said = train(corpus, "--output", tmp_path / "x", "--backend", "torch", "--num-gpus", 2,
                 "--device", "cuda", code=1)  # fmt: skip
    assert said.count("Error: ") == 1
    # The first of a torch that is built for CPUs alone.
    assert "torch has no device 'cuda' here" in said or "--num-gpus 2, but torch finds " in said


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody can hold a port for another")
def test_ports_are_kept_for_the_processes_that_begin_there():
    with hold_free_ports(2) as ports:
        assert len({*ports}) == 2
        for port in ports:
            with socket.socket() as stranger, pytest.raises(OSError, match="already in use"):
                stranger.bind(("127.0.0.1", port))
            with socket.socket() as own:  # as MLX's ring asks for it
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                own.bind(("127.0.0.1", port))
                own.listen()


NEVER_STARTED = f"""
import sys, time
if any("spawn_main" in word for word in sys.orig_argv):
    time.sleep({WAIT})
"""


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=str)
@pytest.mark.parametrize("whom", ["launcher", "rank 0", "rank 1"])
def test_a_signal_to_any_saves_once_and_stops_all(corpus, tmp_path, how, whom):
    run = tmp_path / "run"
    process, pids = begun(corpus, run, *how)
    try:
        target = process.pid if whom == "launcher" else pids[int(whom[-1])]
        os.kill(target, signal.SIGTERM)
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 75, said
        assert said.count("and saved; resume with: hermes train --resume") == 1
        step = last_saved(run)
        assert f"stopped at step {step} of" in said
    finally:
        end(process, pids)
    again = said.rpartition("; resume with: hermes ")[2].split()
    said = spoken(corpus, [*HERMES, *again, "--max-steps", step + 1])
    assert "on 2 processes" in said
    assert f"resuming from step {step}, written by {how[1]}" in said


@pytest.mark.parametrize("how", [MLX, pytest.param(TORCH, marks=pytest.mark.long)], ids=str)
@pytest.mark.parametrize(
    "slow", [pytest.param(False, marks=pytest.mark.long), True], ids=["", "slow"]
)
def test_a_signal_while_the_processes_start_ends_all(corpus, tmp_path, site, how, slow):
    """Also where a busy machine lets them import for longer than anybody would wait."""
    if slow:
        site(NEVER_STARTED)
    process = subprocess.Popen(
        [*HERMES, *COMMON, "--output", str(tmp_path / "run"), "--max-steps", "100000", *how],
        cwd=corpus,
        stderr=subprocess.PIPE,
        text=True,
    )
    pids = []
    try:
        wait_until(lambda: len(workers(process.pid)) == 2, WAIT, process)
        pids = workers(process.pid)
        process.send_signal(signal.SIGUSR1)
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 130, said
        assert said.endswith("Error: interrupted\n")
        assert drop_stages(said) == "Error: interrupted\n"
        assert not any(alive(pid) for pid in pids)
    finally:
        end(process, pids)
