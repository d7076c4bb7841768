"""The entry point says that it cannot start only where it did not."""

import subprocess
import sys

CODE = """
import hermes_cli.main

def fail(signals):
    raise RuntimeError("a fault of the command")

hermes_cli.main.run_process = fail
from hermes_cli.entry import main
main()
"""
BEFORE = """
import sys
sys.modules["hermes_cli.main"] = None
from hermes_cli.entry import main
main()
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_fault_of_the_command_is_shown_with_its_place():
    ran = run(CODE)
    assert ran.returncode == 1
    assert "cannot start" not in ran.stderr
    assert ran.stderr.startswith("Traceback")
    assert ran.stderr.endswith("RuntimeError: a fault of the command\n")


def test_what_cannot_be_loaded_is_a_sentence():
    ran = run(BEFORE)
    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: hermes cannot start: import of hermes_cli.main halted")
    assert "Traceback" not in ran.stderr
