"""A rank that hangs before the first step: found within the run's limit, on both backends."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from hermes.distributed.hang_rules import HangRules
from hermes.distributed.processor_time import (
    _parse_time,
    read_descendants_seconds,
    read_seconds,
)
from hermes.distributed.signs_of_work import BEAT, OTHERS, RANKS, Beat, SignsOfWork
from hermes.stages import report_stage
from hermes_cli.launch.hang_watch import HangWatch
from hermes_cli.launch.pulse import Pulse, get_pulse_path, read_beat
from hermes_cli.launch.worker_status import WorkerStatus
from tests.distributed.support import COMMON, MLX, TORCH, WAIT, ranks, train

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 6
# What rank 1 meets, and where: the rest of the program is as it is.
HANGS = """
import os, sys, time
def hang(*args, **kwargs):
    if os.environ.get("RANK", os.environ.get("MLX_RANK")) not in WHO:
        return
    open("BEGUN", "w").write(str(time.monotonic()))
    WHAT
if "MLX_RANK" in os.environ or "RANK" in os.environ or "spawn_main" in str(sys.orig_argv):
    import MODULE as module
    holder = module.HOLDER
    plain = holder.NAME
    def planted(*args, **kwargs):
        hang()
        return plain(*args, **kwargs)
    holder.NAME = planted
"""
WAYS = {
    "blocked": "time.sleep(1000)",
    "loop": "n = 0\n    while True: n = n * n % 7919 + 1",
    "polling": "while not os.path.exists('/nowhere'): time.sleep(0.01)",
    "computing": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2**31 - 1)",
    "locking": "sum(range(10**13))",  # keeps Python's lock meanwhile
    "stopped": "os.kill(os.getpid(), 19); time.sleep(1000)",
    "torch's ranks": "import torch; other = 1 - int(os.environ['RANK'])\n"
    "    torch.distributed.recv(torch.zeros(1), other)",
    # As if the module called that does so.
    "mlx's ranks": "import mlx.core as mx; other = 1 - int(os.environ['MLX_RANK'])\n"
    "    exec('mx.eval(mx.distributed.recv((1,), mx.float32, other))', "
    "{'__name__': 'hermes_mlx.process_group', 'mx': mx, 'other': other})",
}
PLACES = {
    "data": ("hermes.training.run", "Run", "build"),
    "first batch": ("hermes.training.loop", "TrainingLoop", "_draw_batch"),
    "torch's compile": ("torch._inductor.compile_fx", "sys.modules[module.__name__]", "compile_fx"),
    "mlx's compile": ("hermes_mlx.runtime", "Runtime", "make_context"),
}
FOUND = [
    (MLX, "first batch", "loop"),
    (MLX, "mlx's compile", "blocked"),
    (MLX, "data", "polling"),
    (TORCH, "first batch", "blocked"),
    (TORCH, "torch's compile", "loop"),
    (TORCH, "torch's compile", "blocked"),
    (TORCH, "data", "loop"),
]


# Under no launcher of hermes's: who hangs, and where.
ALONE = [
    ("mlx", "first batch", "loop", ["1"]),
    ("mlx", "data", "polling", ["0", "1"]),
    ("torch", "first batch", "blocked", ["1"]),
    ("torch", "torch's compile", "loop", ["0", "1"]),
]


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """A function that lets ranks hang; it gives what more a command is told for that."""

    def plant(place, way, who=("1",)):
        module, holder, name = PLACES[place]
        text = HANGS.replace("WHAT", WAYS[way]).replace("MODULE", module)
        holder = f"module.{holder}" if "[" not in holder else holder
        text = text.replace("module.HOLDER", holder).replace("NAME", name)
        text = text.replace("BEGUN", str(tmp_path / "begun")).replace("WHO", repr(who))
        (tmp_path / "sitecustomize.py").write_text(text)
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)
        return ["--peer-timeout", LIMIT, *(["--compile"] if "torch" in place else [])]

    return plant


@pytest.mark.long
@pytest.mark.parametrize(("how", "place", "way"), FOUND)
def test_a_rank_that_hangs_before_the_first_step_is_found_within_the_limit(
    corpus, tmp_path, plant, how, place, way
):
    run, more = tmp_path / "run", plant(place, way)
    said = train(corpus, "--output", run, "--max-steps", 3, *how, *more, code=76)
    # The other rank has to come so far as to wait, on a machine that may be busy; 600 is the time
    # that a first step may take.
    assert time.monotonic() - float((tmp_path / "begun").read_text()) < 300
    assert said.count("Error: ") == 1
    assert "Error: rank 1 (process " in said
    assert f"hung and was killed: it did nothing for {LIMIT} s before the first step" in said
    assert "sitecustomize.py:" in said
    assert "Traceback" not in said
    log = (run / "logs" / "rank-1.txt").read_text() if place != "data" else "in hang"
    assert "in hang" in log


@pytest.mark.long
@pytest.mark.parametrize("how", [MLX, TORCH])
def test_all_ranks_that_hang_at_once_are_found_within_the_limit(corpus, tmp_path, plant, how):
    more = plant("first batch", "blocked", ("0", "1"))
    said = train(corpus, "--output", tmp_path / "run", "--max-steps", 3, *how, *more, code=76)
    assert time.monotonic() - float((tmp_path / "begun").read_text()) < 300
    assert said.count("Error: ") == 1
    assert f"it did nothing for {LIMIT} s before the first step, nor did any other (" in said


@pytest.mark.long
@pytest.mark.parametrize(("backend", "place", "way", "who"), ALONE)
def test_a_rank_of_another_launcher_that_hangs_before_the_first_step_ends_itself(
    corpus, tmp_path, plant, backend, place, way, who
):
    more = plant(place, way, who)
    run = ["--output", tmp_path / "run", "--max-steps", 3, "--backend", backend]
    ended = ranks(corpus, backend, *2 * [[*COMMON, *run, *more]])
    assert time.monotonic() - float((tmp_path / "begun").read_text()) < 300
    for rank, (code, said) in enumerate(ended):
        assert code == 76, said
        assert said.count("Error: ") == 1
        assert "Traceback" not in said
        if str(rank) in who:
            assert f"Error: rank {rank} (process " in said
            assert f"hung, so it ends: it did nothing for {LIMIT} s before the first step" in said
            assert way == "polling" or "in hang); if it was at work" in said
            assert "; if it was at work, give a longer --peer-timeout" in said
            log = tmp_path / "run" / "logs" / f"rank-{rank}.txt"
            assert place == "data" or "in hang" in log.read_text()


NOT_SEEN_BY_ITSELF = [
    *(("torch", way) for way in ("computing", "locking", "stopped", "torch's ranks")),
    *(("mlx", way) for way in ("computing", "locking", "stopped", "mlx's ranks")),
]
SAID = {
    "computing": f"one call computed for {LIMIT} s before the first step while others waited",
    "locking": f"it said nothing for {LIMIT} s before the first step while others waited",
    "stopped": f"it said nothing for {LIMIT} s before the first step while others waited",
    "torch's ranks": f"it waited for {LIMIT} s before the first step, as did every other (",
    "mlx's ranks": f"it waited for {LIMIT} s before the first step, as did every other (",
}


@pytest.mark.long
@pytest.mark.parametrize(("backend", "way"), NOT_SEEN_BY_ITSELF)
def test_what_no_rank_can_tell_of_itself_is_found_under_another_launcher(
    corpus, tmp_path, plant, backend, way
):
    who = ("0", "1") if "ranks" in way else ("1",)
    more = plant("first batch", way, who)
    run = ["--output", tmp_path / "run", "--max-steps", 3, "--backend", backend]
    seconds = time.monotonic()
    ended = ranks(corpus, backend, *2 * [[*COMMON, *run, *more]], awaited=[0])
    assert ended[0][0] == 76, ended
    assert time.monotonic() - max(seconds, float((tmp_path / "begun").read_text())) < 200
    assert SAID[way] in ended[0][1]
    assert ended[0][1].count("Error: ") == 1
    assert "Traceback" not in ended[0][1]
    assert "ranks" in way or "rank 1 (host " in ended[0][1]


@pytest.mark.long
@pytest.mark.parametrize(("backend", "way"), NOT_SEEN_BY_ITSELF)
def test_what_no_rank_can_tell_of_itself_is_found_by_the_launcher(
    corpus, tmp_path, plant, backend, way
):
    more = plant("first batch", way, ("0", "1") if "ranks" in way else ("1",))
    how = TORCH if backend == "torch" else MLX
    said = train(corpus, "--output", tmp_path / "run", "--max-steps", 3, *how, *more, code=76)
    assert time.monotonic() - float((tmp_path / "begun").read_text()) < 200
    assert said.count("Error: ") == 1
    assert "hung and was killed" in said
    assert way == "stopped" or SAID["computing" if way == "locking" else way] in said


WATCHED = """
import time
from hermes.distributed.process_group import RankInfo
from hermes.distributed.start_watch import StartWatch
from hermes.stages import report_stage
watch = StartWatch(RankInfo(1, 2, timeout=3), "peer_timeout")
watch.start()
WHAT
watch.stop()
time.sleep(5)
"""
BUSY_RANKS = {  # each longer than the limit
    "at work": "for k in range(60): report_stage('reading', k); time.sleep(0.1)",
    "waiting": "report_stage('waiting for the device'); time.sleep(6)",
}


@pytest.mark.parametrize("what", BUSY_RANKS)
def test_a_rank_that_works_or_waits_is_left_alone_and_so_is_one_without_a_watch(what):
    script = WATCHED.replace("WHAT", BUSY_RANKS[what])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_rank_that_does_nothing_ends_itself_and_names_the_argument():
    script = WATCHED.replace("WHAT", "time.sleep(1000)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 76
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: rank 1 (process ")
    assert "it did nothing for 3 s before the first step (<string>:8, in <module>)" in line
    assert line.endswith("; if it was at work, give a longer peer_timeout")


def beat_of(signs, seconds=0.6):
    """The number of signs and calls after so long, seen as a worker's own thread sees them."""
    main, before = threading.main_thread().ident, signs.number + signs.calls
    end, period = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        time.sleep(0.05)
        signs.add_frame(sys._current_frames()[main])
    signs.add_period(time.monotonic() - period)
    return signs.number + signs.calls - before


def watch_while(work, seconds=0.8, periods=1):
    """The fewest signs there are of WORK, called again and again, in one of so many periods."""
    counts, ended = [], threading.Event()

    def look():
        signs = SignsOfWork()
        beat_of(signs, 1.0)
        while len(counts) < periods and 0 not in counts:
            counts.append(beat_of(signs, seconds))
        ended.set()

    thread = threading.Thread(target=look)
    thread.start()
    while not ended.is_set():
        work()
    thread.join()
    return min(counts)


LOOPS = """
import time
from tests.distributed.test_hangs import watch_while
def loop():
    n = 1
    for _ in range(10_000):
        n = n * n % 7919 + 1
print(watch_while(loop, periods=5), watch_while(lambda: time.sleep(0.01), periods=5))
"""


def test_a_loop_of_python_and_one_that_sleeps_show_no_work():
    """In a process of their own: this one has threads and children that work meanwhile."""
    done = subprocess.run(
        [sys.executable, "-c", LOOPS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "0"], done.stderr


def test_stages_memory_calls_and_children_show_work():
    numbers, kept = iter(range(10**9)), []
    assert watch_while(lambda: (report_stage("reading", next(numbers)), time.sleep(0.01))) > 0
    report_stage("")
    assert watch_while(lambda: (kept.append(np.ones(300_000)), time.sleep(0.01))) > 0
    square = np.ones((2000, 2000))
    assert watch_while(lambda: square @ square, 1.2) > 0
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        assert watch_while(lambda: time.sleep(0.01)) > 0
        child.kill()


def test_processor_time_of_others_is_counted():
    before = read_descendants_seconds()
    words = [sys.executable, "-c", "import os, subprocess, sys; "]
    words[2] += "subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen(words, start_new_session=True) as child:
        end_at = time.monotonic() + WAIT
        while read_descendants_seconds() < before + 0.3:
            assert time.monotonic() < end_at
        os.killpg(child.pid, 9)
    assert read_seconds(os.getpid()) > 0
    assert read_seconds(child.pid) == 0
    assert [_parse_time(text) for text in ("1:02.50", "1:00:00", "2-00:00:01")] == [
        62.5,
        3600,
        172_801,
    ]


def test_a_pulse_is_a_file_until_the_first_step_is_done(tmp_path):
    path = get_pulse_path(tmp_path, 0, 1)
    pulse = Pulse(path)
    assert read_beat(path) is None
    pulse.start()
    end_at = time.monotonic() + WAIT
    assert read_beat(path).beats == 0
    while read_beat(path).beats == 0:
        assert time.monotonic() < end_at
        time.sleep(0.01)
    assert "test_hangs.py" in read_beat(path).place
    assert read_beat(path).waits == ""
    pulse.stop()
    time.sleep(1.5 * BEAT)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def two(tmp_path):
    """A watch over two workers, and a function for a tick after what both have said."""
    watch = HangWatch(str(tmp_path), 3.0)
    workers = [WorkerStatus(rank, 0, os.getpid() + rank) for rank in (0, 1)]

    def tick(*said):
        for one, beat in zip(workers, said, strict=True):
            path = get_pulse_path(tmp_path, 0, one.rank)
            beats, signs, waits = beat
            fields = asdict(Beat(beats, signs, RANKS if waits else "", "here"))
            text = json.dumps(fields)
            path.write_text(text)
        watch._ticked_at = 0.0
        return [(one.rank, how) for one, how in watch.find(workers)]

    return tick


def test_who_does_nothing_while_others_wait_hangs(two):
    for k in range(4):
        assert two((k, 1, True), (k, 5, False)) == []
    ((rank, how),) = two((5, 1, True), (5, 5, False))
    assert rank == 1
    assert how.startswith(": it did nothing for 3 s before the first step while others waited (he")


def test_who_works_or_whom_nobody_waits_for_does_not_hang(two):
    for k in range(9):
        assert two((k, 1, True), (k, k, False)) == []  # it works
    for k in range(9):
        assert two((k, 1, False), (k, k, False)) == []  # nobody waits, and one works
    for k in range(9):
        assert two((k, k, True), (k, 5, False)) == []  # the other does what it waits for
    for k in range(9):
        assert two((k, k, True), (k, 5, True)) == []  # one works while it waits


def test_who_does_nothing_as_all_the_others_hangs(two):
    for k in range(4):
        assert two((k, 1, False), (k, 5, False)) == []
    found = two((5, 1, False), (5, 5, False))
    assert [rank for rank, _ in found] == [0, 1]
    assert all("before the first step, nor did any other (here)" in how for _, how in found)


def test_who_keeps_pythons_lock_hangs_where_nothing_computes(two, monkeypatch):
    seconds = iter(range(100))
    from hermes_cli.launch import hang_watch

    monkeypatch.setattr(hang_watch, "read_seconds", lambda pid: next(seconds))
    for k in range(9):
        assert two((k, k, True), (7, 5, False)) == []
    monkeypatch.setattr(hang_watch, "read_seconds", lambda pid: 100.0)
    found = [two((k, 1, True), (7, 5, False)) for k in range(5)]
    assert [rank for rank, _ in found[-1]] == [1]


def test_a_beat_is_what_was_written(tmp_path):
    (tmp_path / "one").write_text('{"beats": 1, "signs": 2, "waits": "ranks", "place": "x"}')
    assert read_beat(tmp_path / "one") == Beat(1, 2, RANKS, "x")


def judge(rule):
    """What a limit of 3 seconds finds after so many beats of each of two ranks."""
    rules = HangRules(3.0)
    for k in range(rule[0]):
        rules.add({rank: make(k) for rank, make in enumerate(rule[1:])}, {})
    return rules.find(), rules.find_silent()


def waiter(k):
    return Beat(k, 5, RANKS, "w")


def caller(k):
    return Beat(k, 5, "", "c", calls=k, computed=k)


def test_ranks_that_all_wait_for_each_other_hang_and_none_does_before_the_limit():
    found, silent = judge((5, waiter, waiter))
    assert list(found) == [0, 1]
    assert found[0] == "it waited for 3 s before the first step, as did every other (w)"
    assert silent == []
    assert judge((4, waiter, waiter)) == ({}, [])


def test_a_call_that_computes_hangs_where_another_rank_waits_as_long_and_only_there():
    found, _ = judge((5, waiter, caller))
    assert found == {1: "one call computed for 3 s before the first step while others waited (c)"}
    assert judge((9, caller, caller)) == ({}, [])  # all may be in a long step
    back = lambda k: Beat(k, 5, RANKS, "b", calls=k, computed=k)  # noqa: E731, in backward
    assert judge((9, back, back)) == ({}, [])
    assert list(judge((9, waiter, back))[0]) == [1]


def test_a_wait_for_another_process_is_no_hang():
    locked = lambda k: Beat(k, 5, OTHERS, "l")  # noqa: E731
    assert judge((9, waiter, locked)) == ({}, [])
    assert judge((9, locked, locked)) == ({}, [])


def test_who_says_nothing_while_another_waits_is_silent_and_who_has_left_is_not():
    mute = lambda k: Beat(1, 5, RANKS, "m")  # noqa: E731
    assert judge((9, waiter, mute))[1] == [1]
    assert judge((9, caller, mute))[1] == []  # nobody waits for it yet
    assert judge((9, waiter, lambda k: None))[1] == []


PAIR = """
import sys, threading
from hermes.distributed.beat_channel import open_channel
from hermes.distributed.process_group import RankInfo
from hermes.distributed.signs_of_work import Beat
turn, said = threading.Barrier(2), {}
def gather(rank):
    def all_gather_text(text):
        said[rank] = text
        turn.wait(); found = [said[0], said[1]]; turn.wait()
        return found
    return all_gather_text
opened = {}
def join(rank):
    opened[rank] = open_channel(RankInfo(rank, 2, rank, 2), gather(rank))
both = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
[one.start() for one in both]; [one.join() for one in both]
"""


def test_ranks_tell_each_other_how_they_are_until_one_leaves():
    script = (
        PAIR
        + """
import time
first, second = opened[0], opened[1]
for k in range(1, 4):
    second.share(Beat(k, k, "ranks", "here")); time.sleep(0.05)
    told = first.share(Beat(k, 7, "", "there")); time.sleep(0.05)
assert told[1] == Beat(3, 3, "ranks", "here"), told
assert second.share(Beat(4, 4, "", "x"))[0] == Beat(3, 7, "", "there")
assert first.names[1].startswith("host ")
first.tell({1: "it hung"}); time.sleep(0.05); second.share(Beat(5, 5, "", "x"))
assert second.get_verdict() == {1: "it hung"}
second.close(); time.sleep(0.05)
assert list(first.share(Beat(9, 9, "", "x"))) == [0]
"""
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


STRANGERS = r"""
import socket, hermes.distributed.beat_channel as module
plain = module._connect
def connect(offer, rank):
    at = offer["at"][0].rpartition(":")
    for words in (b"{}\n", b'{"token": "0", "rank": 1}\n', b"[" * 9999 + b"\n", b"\xff" * 99):
        one = socket.create_connection((at[0], int(at[2])))
        one.sendall(words)
    return WHAT
module._connect = connect
"""


@pytest.mark.parametrize(("what", "gone"), [("plain(offer, rank)", False), ("None", True)])
def test_a_stranger_is_no_rank_and_what_cannot_be_reached_is_said(what, gone):
    end = f"assert (opened[0] is None, opened[1] is None) == ({gone}, {gone})"
    script = STRANGERS.replace("WHAT", what) + PAIR + end
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("1 of 2 processes cannot reach rank 0's machine" in done.stderr) == gone
