"""What `ulimit` leaves of memory is read, in the words of the option that set it."""

import json
import subprocess
import sys

import pytest

from hermes.process_limits import ProcessLimit

TELL = (
    "import json; from hermes.process_limits import list_process_limits as list_them; "
    "print(json.dumps([vars(one) for one in list_them()]))"
)


def list_in_process(*settings):
    """What a new process says under these settings of ulimit, in kB."""
    command = (
        "".join(f"ulimit {one} && " for one in settings) + f"exec {sys.executable} -c '{TELL}'"
    )
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    return [ProcessLimit(**one) for one in json.loads(ran.stdout)]


def test_each_limit_that_is_set_is_listed():
    assert list_in_process() == []
    address, data = list_in_process("-v 4000000", "-d 3000000")
    assert (address.name, address.limit) == ("ulimit -v", 4_000_000 << 10)
    assert (data.name, data.limit) == ("ulimit -d", 3_000_000 << 10)
    for one in (address, data):
        assert 2**20 < one.used < 2**31
        assert one.left == one.limit - one.used


GROW = """
from hermes.process_limits import list_process_limits
(before,) = list_process_limits()
taken = bytearray(64 << 20)
(after,) = list_process_limits()
print(before.left - after.left)
"""


@pytest.mark.parametrize("option", ["-v", "-d"])
def test_what_is_used_grows_with_what_is_taken(option):
    """In a process of its own, whose other threads give no memory back meanwhile."""
    command = f'ulimit {option} 4000000 && exec "$0" -c "$1"'
    ran = subprocess.run(
        ["bash", "-c", command, sys.executable, GROW], capture_output=True, text=True, check=True
    )
    assert 60 << 20 < int(ran.stdout) < 80 << 20


def test_nothing_is_left_beyond_a_limit():
    assert ProcessLimit("ulimit -v", 10, 11).left == 0
