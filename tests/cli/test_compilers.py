"""A signal while a compiler works ends the compiler, and then the command as at any other time."""

import os
import signal
from pathlib import Path

import pytest

from hermes_cli.launch.compilers import is_compiler
from tests.cli.support import TRAIN, process
from tests.waiting import wait_until

# In the place of g++: it says that it works, and then works for longer than anybody waits.
WORKS = """#!/bin/sh
if [ "$1" != --version ] && {when}; then echo $$ > {pid}.part; mv {pid}.part {pid}; sleep 3600; fi
exec {compiler} "$@"
"""


@pytest.mark.parametrize(
    "command",
    [
        "g++ -std=c++17 -O3 kernel.cpp",
        "/usr/bin/x86_64-linux-gnu-g++-12 kernel.cpp",
        "/bin/sh /opt/bin/g++ kernel.cpp",
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -quiet kernel.cpp",
        "clang++ kernel.cpp",
    ],
)
def test_a_compiler_is_known_by_its_name(command):
    assert is_compiler(command)


@pytest.mark.parametrize(
    "command", ["", "python train.py g++", "sh -c g++ kernel.cpp", "vim g++.txt", "sh", "gcc x.c"]
)
def test_others_are_none_and_a_shell_says_how_its_compiler_ended(command):
    assert not is_compiler(command)


def is_there(pid):
    """Whether a process is there and no zombie, which an init of its own would have to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def train(here, when, *more):
    """A run of MLX whose compiler works without end, `when` a line of the shell says so."""
    (compiler,) = (p for p in (Path("/usr/bin/g++"), Path("/usr/local/bin/g++")) if p.exists())
    binaries, pid = here / "bin", here / "pid"
    binaries.mkdir()
    (binaries / "g++").write_text(WORKS.format(when=when, pid=pid, compiler=compiler))
    (binaries / "g++").chmod(0o755)
    (here / "temporary").mkdir()  # where MLX keeps what it has compiled
    environment = {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(here / "temporary"),
    }
    options = ("--backend", "mlx", "--device", "cpu", "--compile", "--log-every", 1)
    running = process(*TRAIN, *options, *more, environment=environment)
    wait_until(pid.exists, 300, running)
    return running, int(pid.read_text())


@pytest.fixture
def has_mlx():
    pytest.importorskip("mlx.core")
    if not Path("/proc/self/stat").exists() or not Path("/usr/bin/g++").exists():
        pytest.skip("a compiler's place is known on Linux alone")


@pytest.mark.usefixtures("has_mlx")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_compiler_of_a_first_step_and_the_run(here, number):
    running, compiler = train(here, "true")
    running.send_signal(number)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "Error: interrupted"
    assert not is_there(compiler)


@pytest.mark.long
@pytest.mark.usefixtures("has_mlx")
def test_a_signal_ends_the_compiler_of_an_evaluation_and_the_run_is_saved(here):
    """The evaluation is then done without the compiler, as the run is about to be saved."""
    after_steps = f"grep -q loss {here}/run/metrics.jsonl 2> /dev/null"
    running, compiler = train(here, after_steps, "--val-fraction", 0.1, "--eval-every", 3)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 75, err
    assert "stopped at step 3 of" in err.splitlines()[-1]
    assert "mx.compile failed" not in err
    assert not is_there(compiler)
