"""A rank that hangs before the first step: found within the run's limit, on both backends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.support import COMMON, MLX, TORCH, ranks, train

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
