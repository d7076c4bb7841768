"""Signals, terminals that close, and readers that go away."""

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.support import HERMES, TRAIN, drop_stages, process, wait_for_step
from tests.scenarios import signal_commands
from tests.waiting import PATIENCE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_finishes_the_update_saves_and_says_how_to_go_on(here, call, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("ignored here, as under nohup, and so by hermes")
    training = process(*TRAIN, "--max-steps", 100_000, "--log-every", 1, "--save-every", 5)
    wait_for_step(here / "run/metrics.jsonl", 5, training)
    training.send_signal(number)
    _, err = training.communicate(timeout=PATIENCE)
    assert training.returncode == 75
    last = err.splitlines()[-1]
    step = max(int(path.name[5:]) for path in Path("run").glob("step-*"))
    assert last == (
        f"stopped at step {step:,} of 100,000 and saved; resume with: "
        "hermes train --resume --output run"
    )
    code, _, _ = call("train", "--resume", "--output", "run", "--max-steps", step + 1)
    assert code == 0
    steps = [
        json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, step + 2))


WRITES = """
import os, signal, sys, time
from hermes_cli.launch.signals import Signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
with Signals() as signals:
    signals.grace, signals.words = None, "stopping"
    os.write(1, b"ready")
    end = time.monotonic() + 120
    while not (signals.has_come() and os.path.exists(sys.argv[1])) and time.monotonic() < end:
        sys.stderr.write("a line of a run\\n" * 50)
        sys.stderr.flush()
    signals.finish(7)
sys.exit(7)
"""


def test_a_signal_inside_a_write_to_a_pipe_disturbs_nothing(tmp_path):
    """A handler that prints meets itself there: `reentrant call inside <_io.BufferedWriter>`."""
    enough = tmp_path / "enough"
    with subprocess.Popen(
        [sys.executable, "-c", WRITES, enough],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout.read(5) == "ready"
        for _ in range(300):  # SIGHUP, as a second of the others ends the process
            writer.stderr.readline()
            writer.send_signal(signal.SIGHUP)
        enough.touch()
        words = writer.stderr.read()
        assert writer.wait(timeout=PATIENCE) == 7
    assert "Traceback" not in words
    assert set(words.replace("stopping\n", "").splitlines()) <= {"a line of a run", "stopping"}


ENDS_LATE = """
import os, sys, threading, time
from hermes_cli.launch.signals import Signals
calls = []
with Signals() as signals:
    os.write(1, b"ready")
    while not signals.has_come():
        time.sleep(0.01)
    signals.grace = None
    signals.finish(7)
    signals.on_pending = lambda: calls.append(1)
    def wait():
        while len(calls) < 3:
            time.sleep(0.01)
    threading.Thread(target=wait).start()
sys.exit(7)
"""


def test_what_a_signal_ends_is_ended_until_the_last_thread_has_ended():
    """Torch's threads begin one compiler after another, also while Python waits for them."""
    with subprocess.Popen([sys.executable, "-c", ENDS_LATE], stdout=subprocess.PIPE) as process:
        assert process.stdout.read(5) == b"ready"
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(PATIENCE) == 7
        finally:
            process.kill()


BUSY = """
import os, signal, sys, threading
from hermes_cli.launch.signals import Signals
with Signals() as signals:
    os.write(1, b"ready")
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # as a long call into another language: nobody polls
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_command_that_polls_nothing_ends_by_itself(number):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as busy:
        assert busy.stdout.read(5) == "ready"
        busy.send_signal(number)
        assert busy.wait(timeout=PATIENCE) == 130
        assert busy.stderr.read() == "Error: interrupted\n"


POOL = """
import multiprocessing
from hermes_cli.launch.signals import Signals
with Signals() as signals:
    with multiprocessing.get_context("fork").Pool(2) as pool:  # whose end is a SIGTERM to each
        assert pool.map(abs, [-1, -2]) == [1, 2]
    pool.join()
    print(signals.has_come())
"""


def test_a_librarys_pool_of_processes_ends_itself_and_not_the_command():
    words = [sys.executable, "-c", POOL]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr, done.returncode) == ("False\n", "", 0)


BLOCKS = """
import os, signal
from hermes_cli.launch.signals import Signals
register, registered = os.register_at_fork, []
def count(**functions):
    registered.append(functions)
    register(**functions)
os.register_at_fork = count
before = signal.getsignal(signal.SIGTERM)
for _ in range(3):
    with Signals() as signals:
        if (child := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), signals.has_come())
if (child := os.fork()) == 0:
    os._exit(signal.getsignal(signal.SIGTERM) != before)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(registered))
"""


def test_forked_processes_leave_each_block_and_python_is_asked_for_it_once():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKS],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("-15 False\n" * 3 + "0 1\n", "")


@pytest.mark.parametrize("name", ["info", "train-tokenizer", "generate"])
def test_a_signal_while_python_imports_ends_a_command_with_one_line(here, name):
    words = {
        "info": ("info", "--model", "nano"),
        "train-tokenizer": ("train-tokenizer", "text.txt", "-o", "new.json"),
        "generate": ("generate", "-c", "nowhere"),
    }[name]
    started = signal_commands.start(here, words)
    signal_commands.await_handlers(started)
    started.send_signal(signal.SIGINT)
    err = drop_stages(started.communicate(timeout=PATIENCE)[1])
    # A command that was faster has ended as it would have.
    assert (started.returncode, err) == (130, "Error: interrupted\n") or started.returncode < 2
    assert "Traceback" not in err


def test_a_terminal_that_closes_twice_over_saves_once_and_ends_with_75(here):
    training = process(*TRAIN, "--max-steps", 100_000, "--log-every", 1, "--save-every", 0)
    wait_for_step(here / "run/metrics.jsonl", 5, training)
    for _ in range(3):
        training.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    training.communicate(timeout=PATIENCE)
    assert training.returncode == 75
    assert len(list(Path("run").glob("step-*"))) == 1


def test_under_nohup_a_terminal_that_closes_ends_nothing(here):
    training = process(*TRAIN, "--max-steps", 60, "--log-every", 1, "--save-every", 0,
                       preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # fmt: skip
    wait_for_step(here / "run/metrics.jsonl", 5, training)
    training.send_signal(signal.SIGHUP)
    training.communicate(timeout=PATIENCE)
    assert training.returncode == 0
    assert (here / "run/step-00000060").is_dir()


def test_a_reader_that_goes_away_is_no_error(trained):
    command = f"'{HERMES}' generate -c run -p the --num-samples 40 | head -c 5"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False
    )
    said = drop_stages(done.stderr.decode()).splitlines()
    said = [line for line in said if not line.startswith("model ")]  # what computes
    assert (done.returncode, said) == (0, [])
    assert len(done.stdout) == 5


def test_training_outlives_the_reader_of_its_lines(here):
    """`hermes train ... 2>&1 | head -3`: the run ends as it should, without its display."""
    begin = " ".join(map(str, TRAIN))
    command = f"'{HERMES}' {begin} --max-steps 40 --log-every 1 2>&1 | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert (here / "run/step-00000040").is_dir()


def test_a_broken_pipe_that_is_not_standard_output_is_a_failure(call, monkeypatch):
    def breaks(*arguments):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("hermes_cli.main.import_module", breaks)
    assert call("doctor") == (74, "", "Error: broken pipe\n")


# A signal at an exact moment: while a module is imported, or in one of the ways in which Python
# calls what is left when it ends.
MOMENTS = """
import atexit, os, signal, sys, threading
NUMBER, MOMENT = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of the background
def send(): os.kill(os.getpid(), NUMBER)
class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == MOMENT:
            send()
sys.meta_path.insert(0, Importing())
class Last:
    def __del__(self): send()
if MOMENT == "atexit": atexit.register(send)
if MOMENT == "threads": threading._register_atexit(send)
if MOMENT == "teardown": sys.modules["last"] = Last()
sys.argv = ["hermes", "models"]
from hermes_cli.entry import main
main()
"""
BEGINNING = ("hermes_cli.launch.signals", "hermes_cli.main", "click")
ENDING = ("atexit", "threads", "teardown")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [*BEGINNING, *ENDING])
def test_a_signal_while_python_imports_or_ends_is_no_traceback(number, moment):
    words = [sys.executable, "-c", MOMENTS, str(int(number)), moment]
    done = subprocess.run(words, capture_output=True, text=True)
    if moment == BEGINNING[0]:  # before anything could be said
        assert (done.returncode, done.stderr) == (-number, "")
    elif moment in BEGINNING:
        assert (done.returncode, done.stderr) == (130, "Error: interrupted\n")
    else:  # the last of Python's teardown has the system's handlers again
        assert done.returncode in ((0, -number) if moment == "teardown" else (0,))
        assert done.stderr == ""
        assert "nano" in done.stdout


STUCK = """
import os, sys, time
from hermes.errors import HermesError
from hermes.training.finish_command import FinishCommand
from hermes_cli.launch.signals import Signals
with Signals() as signals:
    signals.grace = 0.2
    finish = FinishCommand(sys.argv[1], "run", lambda line: None)
    signals.on_overdue = finish.run_stopped
    with finish:
        os.write(1, b"ready")
        time.sleep(60)  # a call that polls nothing
"""


def test_a_run_that_hears_no_signal_is_ended_after_its_on_finish(tmp_path):
    """The process ends itself, and did so without the command that hands back its machine."""
    slow = f"sleep 1; printf $HERMES_STATUS > {tmp_path / 'told'}"
    for command, twice in ((slow, False), ("sleep 30 2> /dev/null", True)):
        with subprocess.Popen(
            [sys.executable, "-c", STUCK, command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as stuck:
            assert stuck.stdout.read(5) == "ready"
            stuck.send_signal(signal.SIGTERM)
            if twice:  # a second signal does not wait for it
                assert "running --on-finish" in stuck.stderr.readline()
                stuck.send_signal(signal.SIGTERM)
            assert stuck.wait(PATIENCE) == 130
            said = stuck.stderr.read()
        assert said.endswith("Error: interrupted\n")
        if not twice:
            assert said.startswith(f"the run is stopped; running --on-finish: {slow}\n")
    assert (tmp_path / "told").read_text() == "stopped"


def test_on_finish_runs_where_a_file_of_options_is_wrong(here, call):
    Path("wrong.yaml").write_text("batch_sizes: 4\n")
    line = [*TRAIN, "--on-finish", "printf $HERMES_STATUS > told"]
    assert call(*line, "--config", "wrong.yaml", "--print-config")[0] == 1
    assert call(*line, "--config", "wrong.yaml", "--dry-run")[0] == 1
    assert not Path("told").exists()
    code, _, err = call(*line, "--config", "wrong.yaml")
    assert code == 1
    assert "running --on-finish" in err
    assert Path("told").read_text() == "failed"
