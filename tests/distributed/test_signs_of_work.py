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
from tests.distributed.support import WAIT

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


def watch_while(work, seconds=0.8, periods=1):
    """The fewest signs there are of WORK, called again and again, in one of so many periods."""
    counts, ended = [], threading.Event()

    def look():
        signs = SignsOfWork()
        count_signs_after(signs, 1.0)
        while len(counts) < periods and 0 not in counts:
            counts.append(count_signs_after(signs, seconds))
        ended.set()

    thread = threading.Thread(target=look)
    thread.start()
    while not ended.is_set():
        work()
    thread.join()
    return min(counts)


def count_signs_of(*works):
    """What `watch_while` says of each, run in a process of its own.

    This one has threads and children that work meanwhile, and has had more memory than a test asks.
    """
    script = "\n".join((STATEMENTS, *(f"print(watch_while({work}))" for work in works)))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


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


def test_a_loop_of_python_and_one_that_sleeps_show_no_work():
    assert count_signs_of("loop, periods=5", "sleep, periods=5") == [0, 0]


@pytest.mark.parametrize("work", ["report", "keep", "lambda: square @ square, 1.2"])
def test_stages_memory_and_calls_show_work(work):
    assert count_signs_of(work)[0] > 0


def test_a_child_that_computes_shows_work():
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
    assert "test_signs_of_work.py" in read_beat(path).place
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
        end_at = time.monotonic() + WAIT
        for found, is_there in ((refuse, False), (write, True)):
            monkeypatch.setattr(Path, "write_text", found)
            while path.exists() != is_there:
                assert time.monotonic() < end_at
                time.sleep(0.01)
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
