"""A signal while a compiler works ends the compiler, and then the command as at any other time."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from hermes_cli.launch.compilers import is_compiler
from tests.cli.support import TRAIN, process
from tests.waiting import wait_until

# In the place of g++: it says that it works, and then works for longer than anybody waits.
WORKS = """#!/bin/sh
if [ "$1" != --version ] && {when}; then
    echo $$ > {pid}.part; mv {pid}.part {pid}
    while true; do sleep 1; done
fi
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


def list_processes(temporary):
    """The processes whose temporary files are there, or in a folder in it."""
    found, words = [], f"TMPDIR={temporary}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # another user's, or one that has just ended
            variables = path.read_bytes().split(b"\0")
            if any(one == words or one.startswith(words + b"/") for one in variables):
                found.append(int(path.parent.name))
    return found


def train(here, backend, when, *more):
    """A run whose compiler works without end, `when` a line of the shell says so."""
    (compiler,) = (p for p in (Path("/usr/bin/g++"), Path("/usr/local/bin/g++")) if p.exists())
    binaries, pid = here / "bin", here / "pid"
    binaries.mkdir()
    (binaries / "g++").write_text(WORKS.format(when=when, pid=pid, compiler=compiler))
    (binaries / "g++").chmod(0o755)
    (here / "temporary").mkdir()  # where frameworks keep what they have compiled
    environment = {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(here / "temporary"),
    }
    options = ("--backend", backend, "--device", "cpu", "--compile", "--log-every", 1)
    line = (*TRAIN, *options, *more)
    running = process(*line, environment=environment, start_new_session=True)
    wait_until(pid.exists, 300, running)
    return running, int(pid.read_text())


def end(here, running, number, is_typed=False):
    """Send a signal, or as a terminal does to all of them; what is said once no process is left."""
    os.killpg(running.pid, number) if is_typed else running.send_signal(number)
    _, err = running.communicate(timeout=300)
    wait_until(lambda: not list_processes(here / "temporary"))
    return err.splitlines()


@pytest.fixture
def needs_compilers():
    if not Path("/proc/self/stat").exists() or not Path("/usr/bin/g++").exists():
        pytest.skip("a compiler's place is known on Linux alone")


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.usefixtures("needs_compilers")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("backend", ["mlx", pytest.param("torch", marks=pytest.mark.long)])
def test_a_signal_ends_the_compiler_of_a_first_step_and_the_run(here, backend, number):
    pytest.importorskip({"mlx": "mlx.core"}.get(backend, backend))
    running, compiler = train(here, backend, "true")
    assert end(here, running, number)[-1] == "Error: interrupted"
    assert running.returncode == 130
    assert not is_there(compiler)


@pytest.mark.long
@pytest.mark.usefixtures("needs_compilers")
@pytest.mark.parametrize(
    ("number", "is_typed"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)],
)
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_signal_ends_the_compilers_of_an_evaluation_and_the_run_is_saved(
    here, call, backend, number, is_typed
):
    """The evaluation is then done without the compiler, as the run is about to be saved.

    Those that torch has yet to begin are ended, too: its threads take one after another.
    """
    pytest.importorskip({"mlx": "mlx.core"}.get(backend, backend))
    after_steps = f"grep -q loss {here}/run/metrics.jsonl 2> /dev/null"
    more = ("--val-fraction", 0.1, "--eval-every", 3, "--save-every", 100)
    running, compiler = train(here, backend, after_steps, *more)
    said = end(here, running, number, is_typed)
    assert running.returncode == 75, said
    assert "stopped at step 3 of" in said[-1]
    assert not [line for line in said if "compile failed" in line or "Traceback" in line]
    assert not is_there(compiler)
    code, _, err = call("checkpoint", "verify", "run")
    assert code == 0, err
    code, _, err = call("train", "--resume", "--output", "run", "--no-compile", "--max-steps", 4)
    assert code == 0, err
