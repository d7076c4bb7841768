"""The suite as items of pytest."""

import subprocess
import sys

import pytest

from tests.conformance.support import SMALL, run_hermes


def run_pytest(*words, start=("-m", "pytest")):
    suite = ("-p", "no:cacheprovider", "--pyargs", "hermes_conformance")
    command = [sys.executable, *start, *suite, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)


@pytest.mark.parametrize("option", [["--level", "L1"], ["--law", "L0/names"]])
def test_the_suite_runs_under_pytest(option):
    done = run_pytest("--backend", "mlx", *option, *SMALL, "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


STALE = "[[xfail]]\nlaw = '{law}'\ncase = '{case}'\nreason = 'known'\nexpires = {day}\n"


@pytest.mark.parametrize(
    ("entries", "chosen", "messages"),
    [
        (
            [("L0/names", "*", "2999-01-01"), ("L0/nam*", "*", "2001-01-01")],
            ["--law", "L0/names", *SMALL],
            [
                "L0/names on * was expected to fail and passes; remove it from the xfail file",
                "L0/nam* on * was expected to fail until 2001-01-01 only",
            ],
        ),
        (
            [("L5/*", "nowhere", "2999-01-01")],
            ["--level", "L5", "--collect-only"],
            ["L5/* on nowhere fits no case; see hermes conformance list --cases --long"],
        ),
    ],
    ids=["passes", "fits nothing"],
)
def test_an_xfail_file_that_is_out_of_date_fails_under_pytest(tmp_path, entries, chosen, messages):
    """No test fails, and yet the run ends with 1 and says why."""
    file = tmp_path / "xfail.toml"
    file.write_text(
        "".join(STALE.format(law=law, case=case, day=day) for law, case, day in entries)
    )
    done = run_pytest(*chosen, "--xfail", str(file), "-q")
    assert done.returncode == 1, done.stdout + done.stderr
    assert " failed" not in done.stdout
    for message in messages:
        assert f"FAILED {message}" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--backend", "nobody"], "ERROR: backend 'nobody' is unknown; known are "),
        (["--device", "tpu"], "ERROR: torch has no device 'tpu' here; it has cpu"),
        (["--case", "nothing"], "ERROR: no case is called 'nothing'"),
        (["--law", "L1/gradients"], "ERROR: L1/gradients needs a reference that trains too"),
        (["--xfail", "/nowhere/x.toml"], "ERROR: /nowhere/x.toml: no such file or directory"),
    ],
)
def test_what_is_unknown_is_refused_in_a_line(option, message):
    done = run_pytest(*option)
    assert done.returncode == 4
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_that_certifies_nothing_fails_under_pytest_and_as_a_command(capsys):
    words = ["--law", "L3/tf32", "--case", "default/hot"]
    code, out, _ = run_hermes(capsys, "run", *words)
    assert (code, "no law that needs the backend passed" in out) == (1, True)
    done = run_pytest(*words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 skipped" in done.stdout
    assert "FAILED no law that needs the backend passed on cpu: nothing is certified" in done.stdout


RUN_WITH_FAULT = """
import sys
from contextlib import ExitStack

import pytest

from hermes_conformance.faults.patcher import Patcher

stack = ExitStack()
Patcher("torch", stack).wrap_forward("Head", lambda f: lambda self, x, e: f(self, x, e) * 1.01)
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.long
def test_the_command_to_run_again_is_that_of_the_run():
    words = ["--long", "--device", "cpu", "--law", "L1/logits", "--case", "default/hot"]
    done = run_pytest("--dtype", "float64", *words, start=("-c", RUN_WITH_FAULT))
    assert done.returncode == 1, done.stdout + done.stderr
    again = "--device cpu --dtype float64 --long --law L1/logits --case default/hot"
    assert f"hermes conformance run --backend torch --against numpy {again}" in done.stdout
