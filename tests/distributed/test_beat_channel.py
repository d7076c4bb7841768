"""Ranks that no launcher of hermes watches tell rank 0 how they are."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PAIR = """
import sys, threading
import hermes.distributed.beat_channel as channel
from hermes.distributed.beat_channel import open_channel
from hermes.distributed.process_group import RankInfo
from hermes.distributed.signs_of_work import Beat
from tests.waiting import PATIENCE, wait_until
channel.PATIENCE = PATIENCE
turn, said = threading.Barrier(2), {}
def gather(rank):
    def all_gather_text(text):
        said[rank] = text
        turn.wait(); found = [said[0], said[1]]; turn.wait()
        return found
    return all_gather_text
opened = {}
def join(rank):
    opened[rank] = open_channel(RankInfo(rank, 2, rank, 2), gather(rank))
both = [threading.Thread(target=join, args=(rank,)) for rank in (0, 1)]
[one.start() for one in both]; [one.join() for one in both]
"""


def test_ranks_tell_each_other_how_they_are_until_one_leaves():
    script = (
        PAIR
        + """
first, second = opened[0], opened[1]
for k in range(1, 4):
    second.share(Beat(k, k, "ranks", "here"))
    first.share(Beat(k, 7, "", "there"))
wait_until(lambda: first.share(Beat(3, 7, "", "there"))[1] == Beat(3, 3, "ranks", "here"))
wait_until(lambda: second.share(Beat(4, 4, "", "x"))[0] == Beat(3, 7, "", "there"))
assert first.names[1].startswith("host ")
first.tell({1: "it hung"})
wait_until(lambda: second.share(Beat(5, 5, "", "x")) and second.get_verdict() == {1: "it hung"})
second.close()
wait_until(lambda: list(first.share(Beat(9, 9, "", "x"))) == [0])
"""
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


STRANGERS = r"""
import socket, hermes.distributed.beat_channel as module
plain = module._connect
def connect(offer, rank):
    at = offer["at"][0].rpartition(":")
    for words in (b"{}\n", b'{"token": "0", "rank": 1}\n', b"[" * 9999 + b"\n", b"\xff" * 99):
        one = socket.create_connection((at[0], int(at[2])))
        one.sendall(words)
    return WHAT
module._connect = connect
"""


@pytest.mark.parametrize(("what", "gone"), [("plain(offer, rank)", False), ("None", True)])
def test_a_stranger_is_no_rank_and_what_cannot_be_reached_is_said(what, gone):
    end = f"assert (opened[0] is None, opened[1] is None) == ({gone}, {gone})"
    script = STRANGERS.replace("WHAT", what) + PAIR + end
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("1 of 2 processes cannot reach rank 0's machine" in done.stderr) == gone
