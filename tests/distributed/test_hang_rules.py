"""Which ranks hang, by what all of them say of themselves."""

import json
import os
from dataclasses import asdict

import pytest

from hermes.distributed.hang_rules import HangRules
from hermes.distributed.signs_of_work import OTHERS, RANKS, Beat
from hermes_cli.launch.hang_watch import HangWatch
from hermes_cli.launch.pulse import get_pulse_path, read_beat
from hermes_cli.launch.worker_status import WorkerStatus


@pytest.fixture
def two(tmp_path):
    """A watch over two workers, and a function for a tick after what both have said."""
    watch = HangWatch(str(tmp_path), 3.0)
    workers = [WorkerStatus(rank, 0, os.getpid() + rank) for rank in (0, 1)]

    def tick(*said):
        for one, beat in zip(workers, said, strict=True):
            path = get_pulse_path(tmp_path, 0, one.rank)
            beats, signs, waits = beat
            fields = asdict(Beat(beats, signs, RANKS if waits else "", "here"))
            text = json.dumps(fields)
            path.write_text(text)
        watch._ticked_at = 0.0
        return [(one.rank, how) for one, how in watch.find(workers)]

    return tick


def test_who_does_nothing_while_others_wait_hangs(two):
    for k in range(4):
        assert two((k, 1, True), (k, 5, False)) == []
    ((rank, how),) = two((5, 1, True), (5, 5, False))
    assert rank == 1
    assert how.startswith(": it did nothing for 3 s before the first step while others waited (he")


def test_who_works_or_whom_nobody_waits_for_does_not_hang(two):
    for k in range(9):
        assert two((k, 1, True), (k, k, False)) == []  # it works
    for k in range(9):
        assert two((k, 1, False), (k, k, False)) == []  # nobody waits, and one works
    for k in range(9):
        assert two((k, k, True), (k, 5, False)) == []  # the other does what it waits for
    for k in range(9):
        assert two((k, k, True), (k, 5, True)) == []  # one works while it waits


def test_who_does_nothing_as_all_the_others_hangs(two):
    for k in range(4):
        assert two((k, 1, False), (k, 5, False)) == []
    found = two((5, 1, False), (5, 5, False))
    assert [rank for rank, _ in found] == [0, 1]
    assert all("before the first step, nor did any other (here)" in how for _, how in found)


def test_who_keeps_pythons_lock_hangs_where_nothing_computes(two, monkeypatch):
    seconds = iter(range(100))
    from hermes_cli.launch import hang_watch

    monkeypatch.setattr(hang_watch, "read_seconds", lambda pid: next(seconds))
    for k in range(9):
        assert two((k, k, True), (7, 5, False)) == []
    monkeypatch.setattr(hang_watch, "read_seconds", lambda pid: 100.0)
    found = [two((k, 1, True), (7, 5, False)) for k in range(5)]
    assert [rank for rank, _ in found[-1]] == [1]


def test_a_beat_is_what_was_written(tmp_path):
    (tmp_path / "one").write_text('{"beats": 1, "signs": 2, "waits": "ranks", "place": "x"}')
    assert read_beat(tmp_path / "one") == Beat(1, 2, RANKS, "x")


def judge(rule):
    """What a limit of 3 seconds finds after so many beats of each of two ranks."""
    rules = HangRules(3.0)
    for k in range(rule[0]):
        rules.add({rank: make(k) for rank, make in enumerate(rule[1:])}, {})
    return rules.find(), rules.find_silent()


def waiter(k):
    return Beat(k, 5, RANKS, "w")


def caller(k):
    return Beat(k, 5, "", "c", calls=k, computed=k)


def test_ranks_that_all_wait_for_each_other_hang_and_none_does_before_the_limit():
    found, silent = judge((5, waiter, waiter))
    assert list(found) == [0, 1]
    assert found[0] == "it waited for 3 s before the first step, as did every other (w)"
    assert silent == []
    assert judge((4, waiter, waiter)) == ({}, [])


def test_a_call_that_computes_hangs_where_another_rank_waits_as_long_and_only_there():
    found, _ = judge((5, waiter, caller))
    assert found == {1: "one call computed for 3 s before the first step while others waited (c)"}
    assert judge((9, caller, caller)) == ({}, [])  # all may be in a long step
    back = lambda k: Beat(k, 5, RANKS, "b", calls=k, computed=k)  # noqa: E731, in backward
    assert judge((9, back, back)) == ({}, [])
    assert list(judge((9, waiter, back))[0]) == [1]


@pytest.mark.parametrize("mute_at", range(1, 9))
def test_who_waits_for_one_that_was_stopped_is_in_no_call(mute_at):
    """Its ring polls, and a busy machine let it say nothing for a second."""
    rules = HangRules(3.0)
    for k in range(9):
        rules.add({0: waiter(k - (k == mute_at)), 1: waiter(1)}, {0: True, 1: False})
        assert rules.find() == {}


def test_a_wait_for_another_process_is_no_hang():
    locked = lambda k: Beat(k, 5, OTHERS, "l")  # noqa: E731
    assert judge((9, waiter, locked)) == ({}, [])
    assert judge((9, locked, locked)) == ({}, [])


def test_who_says_nothing_while_another_waits_is_silent_and_who_has_left_is_not():
    mute = lambda k: Beat(1, 5, RANKS, "m")  # noqa: E731
    assert judge((9, waiter, mute))[1] == [1]
    assert judge((9, caller, mute))[1] == []  # nobody waits for it yet
    assert judge((9, waiter, lambda k: None))[1] == []


@pytest.mark.parametrize(("what", "rank"), [("waiter", 0), ("caller", 1), ("mute", 1)])
def test_what_may_be_work_has_a_longer_limit_where_nobody_gave_one(what, rank):
    """Ranks that wait for their GPUs, whose NCCL begins, or of which one compiles in one call."""
    other = {"waiter": waiter, "caller": caller, "mute": lambda k: Beat(1, 5, RANKS, "m")}[what]
    found = {}
    for beats in range(1, 14):
        rules = HangRules(3.0, 9.0)
        for k in range(beats):
            rules.add({0: waiter(k), 1: other(k)}, {})
        found[beats] = {*rules.find(), *rules.find_silent()}
    first = next(beats for beats in found if found[beats])
    assert first == 11  # the first word of a rank, and one beat beyond the limit
    assert rank in found[first]
    assert HangRules(3.0, 9.0).find() == {}


def test_who_does_nothing_while_others_wait_has_the_short_limit_all_the_same():
    rules = HangRules(3.0, 9.0)
    for k in range(5):
        rules.add({0: waiter(k), 1: Beat(k, 5, "", "i")}, {})
    assert list(rules.find()) == [1]


def test_a_word_that_comes_after_a_tick_does_not_end_a_wait():
    """Ranks speak once a second and are looked at once a second, by two clocks."""
    rules = HangRules(3.0)
    for k in range(9):
        beat = Beat(k // 2, 5, RANKS, "w")  # at every other tick there is nothing new
        rules.add({0: beat, 1: beat}, {})
    assert list(rules.find()) == [0, 1]
    rules.add({0: Beat(9, 6, RANKS, "w"), 1: beat}, {})  # it works
    assert rules.find() == {}


@pytest.mark.parametrize("period", [1.05, 1.1, 1.5, 2.5, 3.0])
def test_a_word_that_comes_after_a_tick_makes_no_call_of_a_loop_of_python(period):
    """A loop computes, and a tick at which its rank says nothing new does not excuse it."""
    rules, ticks = HangRules(30.0, 600.0), 0
    while not rules.find() and ticks < 200:
        ticks += 1
        loop = Beat(int(ticks / period), 5, "", "loop", computed=int(ticks / period))
        rules.add({0: Beat(ticks, 5, RANKS, "w"), 1: loop}, {0: False, 1: True})
    how = "it did nothing for 30 s before the first step while others waited (loop)"
    assert rules.find() == {1: how}


def test_who_computes_and_says_nothing_for_longer_may_be_in_a_call():
    rules = HangRules(3.0, 9.0)
    for k in range(10):
        rules.add({0: waiter(k), 1: Beat(k // 4, 5, "", "locked")}, {0: False, 1: True})
        assert rules.find() == {}
    for k in range(10, 12):
        rules.add({0: waiter(k), 1: Beat(k // 4, 5, "", "locked")}, {0: False, 1: True})
    assert list(rules.find().values()) == [
        "one call computed for 9 s before the first step while others waited (locked)"
    ]
