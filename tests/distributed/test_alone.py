"""What one process alone meets: the others end with it at once, and its user reads why."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import click
import pytest

from hermes.distributed.agreement import all_or_none
from hermes.distributed.process_group import RankInfo, SingleProcess
from hermes.errors import DataError, HermesError, NonFinite, StorageError
from hermes_cli.launch.crash_log import CrashLog
from hermes_cli.launch.launcher import _has_refused
from hermes_cli.launch.signals import Signals
from hermes_cli.launch.stderr_filter import filter_stderr
from hermes_cli.launch.supervisor import Death, _Supervisor
from hermes_cli.launch.worker_status import StatusFile
from tests.distributed.support import (
    COMMON,
    HERMES,
    MLX,
    TORCH,
    WAIT,
    alive,
    begun,
    end,
    free_ports,
    train,
)
from tests.distributed.test_launchers import together
from tests.waiting import wait_until

BOTH = pytest.mark.parametrize(
    "how", [MLX, pytest.param(TORCH, marks=pytest.mark.long)], ids=["mlx", "torch"]
)
# Seconds: who waited for a lost rank would still wait when the test's patience is over.
LONG = ["--peer-timeout", 2 * WAIT]
HERE = f"({os.uname().nodename})"


class Pair(SingleProcess):
    """One of two threads that stand for processes."""

    def __init__(self, rank, rendezvous, said):
        self.rank_info, self._meeting, self._said = RankInfo(rank, 2), rendezvous, said

    def all_gather_text(self, text):
        self._said[self.rank_info.rank] = text
        self._meeting.wait(WAIT)
        told = [*self._said]
        self._meeting.wait(WAIT)
        return told

    def history(self):
        return ""


def both(work):
    """What `work` raises in each of two."""
    rendezvous, said, raised = threading.Barrier(2), ["", ""], [None, None]

    def run(rank):
        try:
            work(Pair(rank, rendezvous, said))
        except Exception as error:
            raised[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return raised


@pytest.mark.parametrize("who", [0, 1])
def test_a_refusal_before_what_all_agree_on_within_is_heard_once(who):
    """The others are in the inner agreement, and must not wait for another."""

    def work(process_group):
        def outer():
            if process_group.rank_info.rank == who:
                raise StorageError("full")
            return all_or_none(process_group, lambda: 1)

        all_or_none(process_group, outer)

    errors = both(work)
    assert [type(error) for error in errors] == [StorageError, StorageError]
    assert [error.reported_by for error in errors] == [who, who]
    assert str(errors[who]) == "full"
    assert str(errors[1 - who]) == f"rank {who}: full"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ((0,), {0: "no text"}),
        ((1,), {0: "rank 1: no text", 1: "rank 1: no text"}),
        ((0, 1), {0: "no text"}),
    ],
)
def test_who_refuses_is_told_by_rank_0_and_by_itself(tmp_path, wrong, told):
    def work(process_group):
        def make():
            if process_group.rank_info.rank in wrong:
                raise DataError("no text")

        with CrashLog(process_group, tmp_path):
            all_or_none(process_group, make)

    errors = both(work)
    assert {r: str(e) for r, e in enumerate(errors) if isinstance(e, HermesError)} == told
    assert all(e.exit_code == 1 for e in errors)


def test_a_refusal_that_the_others_do_not_know_of_is_told_with_its_rank(tmp_path):
    two = Pair(1, None, [])
    with pytest.raises(HermesError) as caught, CrashLog(two, tmp_path):
        raise StorageError("no space left")
    assert str(caught.value) == f"rank 1 {HERE}: no space left"
    assert caught.value.exit_code == 74
    assert "StorageError: no space left" in (tmp_path / "logs" / "rank-1.txt").read_text()
    with pytest.raises(click.exceptions.Exit) as caught, CrashLog(two, tmp_path):
        raise NonFinite("the loss is nan")  # which all have met
    assert caught.value.exit_code == 70


def test_what_all_refused_is_not_started_again(tmp_path):
    def told(attempt, *codes):
        for rank, code in enumerate(codes):
            StatusFile(tmp_path, rank, attempt).write_exit_code(code)
        return _has_refused(tmp_path, attempt)

    assert told(0, 1, 1)
    assert not told(1, 1, 76)
    assert not told(2, 74, 74)


def test_who_the_agent_interrupted_hides_no_error(tmp_path, capsys):
    watch = _Supervisor(lambda folder: None, str(tmp_path), Signals(), 0)
    for rank, (line, code) in enumerate([("Error: interrupted", 130), ("Error: full", 74)]):
        report = StatusFile(tmp_path, rank, 0)
        report.write_line(line)
        report.write_exit_code(code)
    watch._start = lambda folder: Death(1, os.getpid(), 74)
    watch.run()
    assert watch.report() == 74
    assert capsys.readouterr().err == "Error: full\n"


@BOTH
def test_an_output_that_cannot_be_made_ends_all(corpus, tmp_path, how):
    output = corpus / "text.txt" / "run"
    said = train(corpus, "--output", output, "--max-steps", 3, *LONG, *how, code=74)
    assert said.count("Error: ") == 1
    assert f"Error: cannot write to {output}" in said


PLANTED = """
from hermes.training.loop import TrainingLoop
plain = TrainingLoop._draw_batch
def next_batch(self):
    if self.coordinator.rank_info.rank == 1 and self.position.cursor.sample >= AT:
        raise MISTAKE
    return plain(self)
TrainingLoop._draw_batch = next_batch
"""


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Plants a mistake in rank 1, before it reads sample AT."""

    def plant(mistake, at):
        folder = tmp_path / "site"
        folder.mkdir()
        text = PLANTED.replace("MISTAKE", mistake).replace("AT", str(at))
        (folder / "sitecustomize.py").write_text(text)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)

    return plant


@BOTH
def test_an_error_before_the_first_update_ends_all(corpus, tmp_path, planted, how):
    planted("RuntimeError('planted')", 0)
    said = train(corpus, "--output", tmp_path / "run", "--max-steps", 3, *LONG, *how, code=1)
    assert said.count("planted") == 1
    assert f"Error: rank 1 {HERE} failed: RuntimeError: planted" in said
    assert "[ring]" not in said


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=["mlx", "torch"])
def test_a_refusal_on_the_way_is_noticed_long_before_the_limit(corpus, tmp_path, planted, how):
    planted("__import__('hermes.errors').errors.DataError('planted')", 8)
    said = train(corpus, "--output", tmp_path / "run", "--max-steps", 9, *LONG, *how, code=1)
    assert said.count("planted") == 1
    assert f"Error: rank 1 {HERE}: planted" in said


CRASHES = """
import os, sys
from hermes_cli.launch.stderr_filter import redirect_stderr
from hermes_cli.display.robust_stderr import make_stderr_robust
redirect_stderr(sys.argv[1])
make_stderr_robust()
with open(os.devnull) as another:
    print("a line", file=sys.stderr)
os.write(2, b"[ring] Socket 9 was closed by the peer\\nlast words")
"""


def test_the_noise_of_a_ring_is_dropped_and_last_words_are_not(tmp_path, capfd):
    with filter_stderr(tmp_path):
        subprocess.run([sys.executable, "-c", CRASHES, tmp_path], check=True)
    assert capfd.readouterr().err == "a line\nlast words"


def ring(tmp_path):
    """The variables of a ring by hand, of each rank."""
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    return [{"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)} for rank in range(2)]


def torchrun(tmp_path):
    """The variables of two nodes with one process each."""
    (port,) = free_ports(1)
    where = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [where | {"RANK": str(rank)} for rank in range(2)]


@pytest.mark.parametrize(
    ("backend", "places"),
    [("mlx", ring), pytest.param("torch", torchrun, marks=pytest.mark.long)],
    ids=["mlx", "torch"],
)
def test_a_mistake_of_one_machine_is_said_on_both(corpus, tmp_path, backend, places):
    """A tokenizer that only the second lacks, whose files are in another folder."""
    one = [*HERMES, *COMMON, "--max-steps", "3", "--backend", backend, "--output", tmp_path / "run"]
    other = ["sh", "-c", 'cd "$0" && exec "$@"', tmp_path, *one]
    commands = zip((one, other), places(tmp_path), strict=True)
    said = together(corpus, *commands, codes=(1, 1))
    assert [text.count("Error: ") for text in said] == [1, 1]
    assert all("Error: rank 1: " in text and "tokenizer.json" in text for text in said)


MEETS = """
import sys
from hermes.errors import PeerLost
from hermes.distributed.process_group import RankInfo
from hermes.interface import Options, find_backend
rank_info = RankInfo(0, 2, rendezvous=sys.argv[2], rendezvous_timeout=1)
try:
    find_backend(sys.argv[1]).join(rank_info, Options(device="cpu"))
except PeerLost as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("mlx", "nobody came in 1 s"),
        pytest.param("torch", "Timed out",
                     marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_who_meets_nobody_gives_up(tmp_path, backend, reason):
    (port,) = free_ports(1)
    done = subprocess.run(
        [sys.executable, "-c", MEETS, backend, f"127.0.0.1:{port}"],
        env=os.environ | ring(tmp_path)[0],
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    begin = "rank 0 of 2 did not find the other processes: "
    assert done.stdout.startswith(begin + reason), done.stderr


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH], ids=["mlx", "torch"])
@pytest.mark.parametrize("stuck", [False, True], ids=["running", "stopped"])
def test_a_second_signal_ends_the_processes_too(corpus, tmp_path, how, stuck):
    run = tmp_path / "run"
    process, pids = begun(corpus, run, *how)
    try:
        if stuck:
            os.kill(pids[1], signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # two at once are one
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT)
        gone(pids)
    finally:
        end(process, pids)


@BOTH
def test_processes_end_with_a_launcher_that_was_killed(corpus, tmp_path, how):
    run = tmp_path / "run"
    process, pids = begun(corpus, run, *how)
    try:
        process.kill()
        process.wait()
        gone(pids)
        train(corpus, "--output", run, "--resume", "--max-steps", 5, "--grad-accum", 2, *how[:2])
    finally:
        end(process, pids)


def gone(pids):
    """Wait until they are: none outlives its launcher."""
    wait_until(lambda: not any(alive(pid) for pid in pids))
