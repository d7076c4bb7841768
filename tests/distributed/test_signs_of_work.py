"""What a rank shows of its work before the first step, and what it says of it."""

import errno
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hermes.distributed.processor_time import (
    _parse_time,
    read_descendants_seconds,
    read_seconds,
)
from hermes.distributed.signs_of_work import BEAT, WAITING, SignsOfWork
from hermes_cli.launch.pulse import Pulse, get_pulse_path, read_beat
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def count_signs_after(signs, seconds=0.6):
    """The number of signs and calls after so long, seen as a worker's own thread sees them."""
    main, before = threading.main_thread().ident, signs.number + signs.calls
    end, period = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        time.sleep(0.05)
        signs.add_frame(sys._current_frames()[main])
    signs.add_period(time.monotonic() - period)
    return signs.number + signs.calls - before


def watch_while(work, wants, seconds=0.8):
    """Whether one of many periods is as wanted while WORK is called again and again.

    wants: whether there are signs in it. In any one a busy machine may have let this process do
    nothing, or something else.
    """
    found, ended = [], threading.Event()

    def look():
        signs = SignsOfWork()
        count_signs_after(signs, 1.0)
        for _ in range(100 if wants else 10):
            found.append(count_signs_after(signs, seconds) > 0)
            if found[-1] == wants:
                break
        ended.set()

    thread = threading.Thread(target=look)
    thread.start()
    while not ended.is_set():
        work()
    thread.join()
    return found[-1]


def shows_work(work, *more):
    """What `watch_while` says of it, run in a process of its own.

    This one has threads and children that work meanwhile, and has had more memory than a test asks.
    """
    script = f"{STATEMENTS}print(watch_while({', '.join((work, *more))}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {"True\n": True, "False\n": False}[done.stdout]


STATEMENTS = """
import time
import numpy as np
from hermes.stages import report_stage
from tests.distributed.test_signs_of_work import watch_while
numbers, kept, square = iter(range(10**9)), [], np.ones((2000, 2000))
def loop():
    n = 1
    for _ in range(10_000):
        n = n * n % 7919 + 1
def sleep():
    time.sleep(0.01)
def report():
    report_stage("reading", next(numbers))
    sleep()
def keep():
    kept.append(np.ones(300_000))
    sleep()
"""


@pytest.mark.parametrize("idle", ["loop", "sleep"])
def test_a_loop_of_python_and_one_that_sleeps_show_no_work(idle):
    assert not shows_work(idle, "False")


@pytest.mark.parametrize("work", ["report", "keep", "lambda: square @ square"])
def test_stages_memory_and_calls_show_work(work):
    assert shows_work(work, "True", "1.2")


def test_a_child_that_computes_shows_work():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        assert watch_while(lambda: time.sleep(0.01), True)
        child.kill()


def test_what_is_read_to_look_for_work_is_no_sign_of_it():
    """A file of /proc for each process: a machine may have thousands."""

    def read_all():
        for _ in range(200):
            Path("/proc/self/status").read_bytes()
        return 0.0

    signs = SignsOfWork(read_all)
    for _ in range(5):
        signs.add_period(1.0)
    before = signs.number
    for _ in range(20):
        signs.add_period(1.0)
    assert signs.number < before + 20


def test_processor_time_of_others_is_counted():
    before = read_descendants_seconds()
    words = [sys.executable, "-c", "import os, subprocess, sys; "]
    words[2] += "subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen(words, start_new_session=True) as child:
        wait_until(lambda: read_descendants_seconds() >= before + 0.3)
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
    assert read_beat(path) is not None
    wait_until(lambda: read_beat(path).beats > 0)
    wait_until(lambda: "waiting.py" in read_beat(path).place)  # where this thread is
    assert read_beat(path).waits == ""
    pulse.stop()
    time.sleep(1.5 * BEAT)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_takes_the_pulse_away_and_it_comes_back(tmp_path, monkeypatch):
    """The last sign that fitted would be that of a rank that does nothing any more."""
    path, write = get_pulse_path(tmp_path, 0, 1), Path.write_text
    pulse = Pulse(path)
    pulse.start()

    def refuse(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        monkeypatch.setattr(Path, "write_text", refuse)
        wait_until(lambda: not path.exists())
        monkeypatch.setattr(Path, "write_text", write)
        wait_until(path.exists)
    finally:
        pulse.stop()


# Of MLX's modules that wait for what they ask for: not called in a step, or before all meet.
OUT_OF_A_STEP = {"cache", "inference", "joined_weights", "row_decoder", "runtime"}


def test_every_module_of_mlx_in_which_a_step_waits_is_known_as_one_that_waits():
    """What the others compute is waited for wherever the first of it is asked for."""
    folder = Path(importlib.util.find_spec("hermes_mlx").origin).parent
    asking = {
        path.stem
        for path in folder.glob("*.py")
        if re.search(r"mx\.(async_)?eval\(", path.read_text(encoding="utf-8"))
    }
    assert asking > OUT_OF_A_STEP
    for name in asking - OUT_OF_A_STEP:
        assert f"hermes_mlx.{name}".startswith(WAITING), name
