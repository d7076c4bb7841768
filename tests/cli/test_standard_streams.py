"""Standard streams that are closed, as daemons and job systems leave them, or not of UTF-8."""

import os
import subprocess
import sys

import pytest

from tests.cli.support import HERMES, LITTLE

CLOSED = ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]

OPENS = """
import os, subprocess, sys
from hermes_cli.display.robust_stderr import open_standard_streams
open_standard_streams()
with open(sys.argv[1], "wb") as file:
    os.write(1, b"of the library, to 1")
    os.write(2, b"of the library, to 2")
    print("of ours"), print("of ours", file=sys.stderr), sys.stdin
    subprocess.run([sys.executable, "-c", "print('of a child', flush=True)"], check=True)
    file.write(f"a checkpoint in number {file.fileno()}".encode())
"""


def run_closed(closed, *command):
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *map(str, command)]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_does_without_streams_that_are_closed(closed):
    done = run_closed(closed, HERMES, "info", "nano")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"nano: ") is (">&-" not in closed.replace("2>&-", ""))
    refused = run_closed(closed, HERMES, "info", "nope")
    assert refused.returncode == 1
    assert b"Traceback" not in refused.stderr
    assert refused.stderr.startswith(b"Error: ") is ("2>&-" not in closed)


@pytest.mark.parametrize("closed", CLOSED)
def test_nothing_that_is_printed_gets_into_a_file_that_is_written(closed, tmp_path):
    """The file would have the number of a closed stream, to which libraries print."""
    done = run_closed(closed, sys.executable, "-c", OPENS, tmp_path / "checkpoint")
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    written = (tmp_path / "checkpoint").read_text()
    assert written.startswith("a checkpoint in number ")
    assert int(written.split()[-1]) > 2


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_character_that_the_locale_lacks_is_shown_otherwise(encoding, tmp_path):
    """An old cluster's locale ended a command at the first dash that a model wrote."""
    (tmp_path / "gr\u00fcn \u2014.mal").write_text(LITTLE)
    done = subprocess.run(
        [HERMES, "mal", "check", "gr\u00fcn \u2014.mal"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = "gr\u00fcn \\u2014" if encoding == "latin-1" else "gr\u00fcn \u2014"
    # Click takes a stream of ASCII for one of UTF-8 that was set up wrongly.
    used = "utf-8" if encoding == "ascii" else encoding
    assert shown.encode(used) in done.stdout
