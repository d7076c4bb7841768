"""A process that dies, hangs, lags, fails or differs: what the others do, and what it leaves."""

import os
import signal
import subprocess
import sys

import click
import pytest

from hermes.checkpoint import verify
from hermes.distributed.process_group import RankInfo, SingleProcess
from hermes.errors import HermesError, PeerLost, StorageError
from hermes_cli.launch.crash_log import CrashLog
from hermes_cli.launch.supervisor import LONGEST_GRACE
from hermes_cli.launch.worker_status import StatusFile, WorkerStatus, read_statuses
from tests.distributed.support import (
    MLX,
    TORCH,
    WAIT,
    alive,
    begun,
    end,
    last_saved,
    metrics,
    train,
    workers,
)
from tests.waiting import wait_until


class Two(SingleProcess):
    """Two processes, of which this is one; what it leaves is kept."""

    def __init__(self, rank):
        self.rank_info, self.left = RankInfo(rank, 2), []

    def history(self):
        return "7 gloo:all_reduce"

    def leave(self, sentence):
        self.left.append(sentence)


def test_what_a_process_told_is_read_but_for_half_a_line(tmp_path):
    report = StatusFile(tmp_path, 1, 2)
    report.write_line("Error: no")
    path = tmp_path / "000002-000001.jsonl"
    written = path.read_bytes().rstrip(b"\0")
    path.write_bytes(written + b'{"code": 7' + bytes(8_000))
    assert read_statuses(tmp_path) == [WorkerStatus(1, 2, os.getpid(), ("Error: no",), None)]


def test_an_exception_is_a_line_with_its_traceback_in_a_file(tmp_path):
    two = Two(1)
    with pytest.raises(HermesError, match=r"^rank 1 \(") as caught, CrashLog(two, tmp_path):
        raise ZeroDivisionError("division by zero")
    assert str(caught.value).endswith(
        f") failed: ZeroDivisionError: division by zero; stacks are in {tmp_path}/logs"
    )
    assert two.left == ["ZeroDivisionError: division by zero"]
    assert caught.value.exit_code == 1
    written = (tmp_path / "logs" / "rank-1.txt").read_text()
    assert "ZeroDivisionError: division by zero" in written
    assert "7 gloo:all_reduce" in written
    assert "test_failures.py" in written


def test_a_lost_process_is_told_of_by_one_of_the_others(tmp_path):
    with pytest.raises(PeerLost, match=r"^gone; stacks are in "), CrashLog(Two(0), tmp_path):
        raise PeerLost("gone", reported_by=0)
    with pytest.raises(click.exceptions.Exit) as caught, CrashLog(Two(1), tmp_path):
        raise PeerLost("gone", reported_by=0)
    assert caught.value.exit_code == 76
    assert "PeerLost: gone" in (tmp_path / "logs" / "rank-1.txt").read_text()


def test_a_full_disk_of_one_machine_is_told_by_its_process(tmp_path):
    def fill():
        with CrashLog(Two(1), tmp_path) as journal:
            journal.watch(lambda: False)
            raise StorageError("full")

    with pytest.raises(HermesError, match=r"^rank 1 \(.*\): full$") as caught:
        fill()
    assert caught.value.exit_code == StorageError.exit_code


def test_the_stack_of_a_stuck_process_is_written_and_removed_when_it_goes_on(tmp_path):
    two = Two(0)
    two.rank_info = RankInfo(0, 2, timeout=0.2)
    with CrashLog(two, tmp_path) as journal:
        polled = journal.watch(lambda: False)
        path = tmp_path / "logs" / "rank-0.txt"
        assert not polled()
        # The stacks come piece by piece, this thread last; a slow machine writes them anew.
        wait_until(lambda: "test_failures.py" in path.read_text())
        assert "most recent call first" in path.read_text()
        wait_until(lambda: polled() or "most recent call first" not in path.read_text())


PROGRAM = """
import atexit
from hermes.distributed.process_group import exit_without_teardown
class Held:
    def __del__(self):
        print("taken apart")
held, ended = Held(), exit_without_teardown()
atexit.register(print, "exit functions run")
print("said", end=", ")
"""


@pytest.mark.parametrize(
    ("told", "code", "said"),
    [("ended(3)", 3, ""), ("", 0, "taken apart\n"), ("raise SystemExit(5)", 5, "taken apart\n")],
)
def test_a_program_that_said_its_code_ends_whole_but_is_not_taken_apart(told, code, said):
    done = subprocess.run([sys.executable, "-c", PROGRAM + told], capture_output=True, text=True)
    assert done.stdout == f"said, exit functions run\n{said}"
    assert done.returncode == code


PLANTED = """
import os, time
import hermes.training.coordination as coordination
plain = coordination.RankCoordinator.should_stop_after_step
def after_step(self):
    if self.rank_info.rank == 1 and self._steps_here == 3:
        FAULT
    return plain(self)
coordination.RankCoordinator.should_stop_after_step = after_step
"""


@pytest.fixture
def planted(site):
    """Plants a fault in rank 1, after its third update."""
    return lambda fault: site(PLANTED.replace("FAULT", fault))


@pytest.mark.parametrize("how", [MLX, pytest.param(TORCH, marks=pytest.mark.long)], ids=str)
def test_an_exception_of_one_rank_is_shown_once(corpus, tmp_path, planted, how):
    planted("raise ZeroDivisionError('planted')")
    run = tmp_path / "run"
    said = train(corpus, "--output", run, "--max-steps", 9, *how, code=1)
    assert said.count("Error: ") == 2  # its own name is one
    assert said.count("planted") == 1
    assert "Traceback" not in said
    assert "Error: rank 1 (" in said
    assert "ZeroDivisionError: planted" in (run / "logs" / "rank-1.txt").read_text()


# Each rank's share of a step takes as long as this says, whatever else the machine does.
PACED = """
import atexit, sys, time, types
import hermes_NAME.process_group as group, hermes.training.loop as loop
now, draw = [0.0], loop.TrainingLoop._draw_batch
group.time = types.SimpleNamespace(**{**vars(time), "perf_counter": lambda: now[0]})
def draw_batch(self):
    now[0] += 0.3 if self.coordinator.rank_info.rank == 1 else 0.1
    return draw(self)
loop.TrainingLoop._draw_batch = draw_batch
if any("spawn_main" in word for word in sys.orig_argv):
    # The last exit function, after which the interpreter would be taken apart.
    atexit.register(print, "taken apart", file=sys.stderr)
"""


@pytest.mark.parametrize("how", [MLX, pytest.param(TORCH, marks=pytest.mark.long)], ids=str)
def test_the_slowest_rank_is_named(corpus, tmp_path, site, how):
    site(PACED.replace("NAME", how[1]))
    run = tmp_path / "run"
    said = train(corpus, "--output", run, "--max-steps", 6, *how)
    updates = [line for line in metrics(run) if "loss" in line]
    assert [line["slowest_rank"] for line in updates[1:]] == [1] * 5
    assert [line["slowest_over_mean"] for line in updates[1:]] == [1.5] * 5
    assert ", rank 1 slowest, 1.5" in said
    assert "taken apart" not in said


FLIPS = {
    "torch": "import torch; p = self._learner.runtime.module.get_parameter('model.norm.weight'); "
    "p.data.view(torch.int64)[0] ^= 1",
    "mlx": "import mlx.core as mx; n, held = 'model.norm.weight', self._learner._params; "
    "bits = held[n].view(mx.int64); bits[0] = bits[0] ^ 1; held[n] = bits.view(mx.float64)",
}


@pytest.mark.parametrize("how", [MLX, pytest.param(TORCH, marks=pytest.mark.long)], ids=str)
def test_one_bit_that_differs_stops_the_run_and_names_the_tensor(corpus, tmp_path, planted, how):
    """Before the next checkpoint, so that all there are were made before."""
    planted(FLIPS[how[1]])
    run = tmp_path / "run"
    said = train(corpus, "--output", run, "--max-steps", 9, "--save-every", 3, *how, code=1)
    assert said.count("Error: ") == 1
    assert (
        "Error: tensor 'model.norm.weight' is not the same in rank 0 and rank 1 after step 6, so "
        "the run stopped; all were the same after step 3, and step-00000003 is from before; a "
        "device or its memory may be at fault: resume with --resume\n"
    ) in said
    assert last_saved(run) == 3


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=str)
@pytest.mark.parametrize(
    ("fault", "code"),
    [("os._exit(0)", 76), ("raise MemoryError()", 71)],
    ids=["ends as if well", "out of memory"],
)
def test_a_rank_that_leaves_the_others_ends_all(corpus, tmp_path, planted, how, fault, code):
    planted(fault)
    run = tmp_path / "run"
    said = train(corpus, "--output", run, "--max-steps", 9, *how, "--peer-timeout", "5", code=code)
    assert said.count("Error: ") == 1
    assert "Traceback" not in said
    assert "rank 1" in said


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=str)
def test_a_rank_in_an_endless_loop_leaves_its_stack(corpus, tmp_path, planted, how):
    planted("time.sleep(1000)")
    run = tmp_path / "run"
    said = train(corpus, "--output", run, "--max-steps", 9, *how, "--peer-timeout", "5", code=76)
    assert said.count("Error: ") == 1
    assert "Error: rank 1 (process " in said
    assert "hung and was killed" in said
    written = (run / "logs" / "rank-1.txt").read_text()
    assert "sitecustomize.py" in written.partition("most recent call first")[2]
    assert "most recent call first" in (run / "logs" / "rank-0.txt").read_text()


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=str)
@pytest.mark.parametrize(
    ("number", "limit"),
    [(signal.SIGKILL, "1800"), (signal.SIGSTOP, "10")],
    ids=["killed", "stopped"],
)
def test_a_lost_process_ends_all_within_the_limit_and_is_named(
    corpus, tmp_path, how, number, limit
):
    """One that ends is missed at once, whatever the limit; one that does nothing, at the limit."""
    run = tmp_path / "run"
    process, pids = begun(corpus, run, *how, "--peer-timeout", limit)
    try:
        os.kill(pids[1], number)
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 76, said
        assert said.count("Error: ") == 1
        assert "rank 1" in said
        assert f"process {pids[1]})" in said
        assert not any(alive(pid) for pid in pids)
        assert "most recent call first" in (run / "logs" / "rank-0.txt").read_text()
        more = ["--resume", "--max-steps", str(max(x["step"] for x in metrics(run)) + 60)]
        train(corpus, "--output", run, *more, "--grad-accum", 2, *how[:2])
    finally:
        end(process, pids)


@pytest.mark.long
def test_torch_starts_all_anew_from_the_last_checkpoint(corpus, tmp_path):
    run = tmp_path / "run"
    process, pids = begun(corpus, run, *TORCH, "--max-restarts", "1")
    again = []
    try:
        os.kill(pids[1], signal.SIGKILL)
        before = last_saved(run)
        wait_until(lambda: last_saved(run) >= before + 10, WAIT, process)
        again = workers(process.pid)
        assert len(again) == 2
        assert not set(again) & set(pids)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 75, said
        assert "start 2 of at most 2, from the last checkpoint" in said
        assert said.count(f"process {pids[1]})") == 1
        steps = [line["step"] for line in metrics(run)]
        assert steps == [1, *range(10, steps[-1] + 1, 10)]  # of so many, every tenth
    finally:
        end(process, [*pids, *again])


SLOW_DISK = """
import os, time
from hermes.storage.durable import Disk
plain = Disk.rename
def rename(self, source, target):
    if target.name == "step-00000010":
        time.sleep(SECONDS)
    return plain(self, source, target)
Disk.rename = rename
"""


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=str)
@pytest.mark.parametrize(
    ("number", "seconds", "timeout"),
    [(signal.SIGKILL, LONGEST_GRACE + 6, "20"), (signal.SIGSTOP, 16, "10")],
    ids=["killed", "stopped"],
)
def test_a_checkpoint_that_is_being_written_is_finished(
    corpus, tmp_path, site, how, number, seconds, timeout
):
    """Also one that takes longer than the others have to end."""
    site(SLOW_DISK.replace("SECONDS", str(seconds)))
    run = tmp_path / "run"
    process, pids = begun(corpus, run, *how, "--peer-timeout", timeout)
    try:
        wait_until(lambda: list(run.glob(".tmp-step-00000010-*")), WAIT, process)
        os.kill(pids[1], number)
        _, said = process.communicate(timeout=WAIT)
        assert process.returncode == 76, said
        assert f"process {pids[1]})" in said
        assert [path.name for path in sorted(run.glob("*step-*"))][-1] == "step-00000010"
        verify(run / "step-00000010")
    finally:
        end(process, pids)
