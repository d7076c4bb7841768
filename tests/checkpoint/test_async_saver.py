"""Saving in the background: what is saved, in what order, and where errors come out."""

import threading

import pytest

from hermes.checkpoint import (
    Companions,
    Disk,
    RetentionPolicy,
    Saver,
    copy_state,
    find_newest,
    list_steps,
    open_checkpoint,
)
from hermes.errors import CheckpointError, NonFinite, StorageError
from hermes.interface import LazyTensors
from tests.checkpoint.support import SPEC, progress_at, require_equal, save_at, state_at
from tests.waiting import PATIENCE, wait_until


def saver(run, **options):
    return Saver(run, spec=SPEC, **options)


class Gate:
    """Stops the writer before its first operation until it is opened."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, operation):
        self.reached.set()
        assert self.opened.wait(PATIENCE)


def test_training_goes_on_while_a_checkpoint_is_written_and_changes_nothing_in_it(tmp_path):
    gate = Gate()
    state = state_at(1)
    with saver(tmp_path, disk=Disk(gate)) as background:
        path = background.save(state, progress_at(1))
        assert gate.reached.wait(PATIENCE)
        assert not path.exists()
        for tensors in (state.params, state.exp_avg, state.exp_avg_sq):
            for tensor in tensors.values():
                tensor += 1  # the next update
        gate.opened.set()
    require_equal(open_checkpoint(path), 1)


def test_the_state_is_read_in_the_thread_that_saves(tmp_path):
    readers = set()

    class Watched(dict):
        def __getitem__(self, name):
            readers.add(threading.get_ident())
            return super().__getitem__(name)

        def items(self):
            return ((name, self[name]) for name in self)

    state = state_at(1)
    state = type(state)(Watched(state.params), state.exp_avg, state.exp_avg_sq, 1)
    with saver(tmp_path) as background:
        background.save(state, progress_at(1))
    assert readers == {threading.get_ident()}


def test_tensors_made_when_asked_for_are_made_once_and_before_save_returns(tmp_path):
    """Each is a copy already; a second one would make training wait, a later one be of later."""
    state, made = state_at(1), []

    def make(name):
        made.append((name, threading.get_ident()))
        return state.params[name].copy()

    lazy = type(state)(LazyTensors(state.params, make), state.exp_avg, state.exp_avg_sq, 1)
    with saver(tmp_path) as background:
        path = background.save(lazy, progress_at(1))
        assert made == [(name, threading.get_ident()) for name in state.params]
    assert len(made) == len(state.params)
    require_equal(open_checkpoint(path), 1)


def test_one_save_is_in_flight_at_most(tmp_path):
    """The second waits for the first before it copies anything."""
    gate = Gate()
    copied = threading.Event()

    class Watched(dict):
        def items(self):
            copied.set()
            return super().items()

    with saver(tmp_path, disk=Disk(gate)) as background:
        background.save(state_at(1), progress_at(1))
        assert gate.reached.wait(PATIENCE)
        state = state_at(2)
        state = type(state)(Watched(state.params), state.exp_avg, state.exp_avg_sq, 2)
        second = threading.Thread(target=background.save, args=(state, progress_at(2)))
        second.start()
        assert not copied.wait(0.2)
        gate.opened.set()
        second.join(PATIENCE)
        assert copied.is_set()
    assert [step for step, _ in list_steps(tmp_path)] == [2, 1]


def refuse(operation):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "call",
    [
        Saver.wait,
        Saver.close,
        Saver.check,
        lambda background: background.save(state_at(2), progress_at(2)),
    ],
)
def test_an_error_of_the_writer_comes_out_at_the_next_call_with_its_cause(tmp_path, call):
    background = saver(tmp_path, disk=Disk(refuse))
    background.save(state_at(1), progress_at(1))
    wait_until(background._pending.done)
    with pytest.raises(StorageError, match="no space left on device") as caught:
        call(background)
    assert isinstance(caught.value.__cause__, OSError)
    background.close()


def test_checking_waits_for_nothing(tmp_path):
    gate = Gate()
    with saver(tmp_path, disk=Disk(gate)) as background:
        background.check()
        background.save(state_at(1), progress_at(1))
        background.check()
        gate.opened.set()


def test_a_state_that_is_no_number_is_told_and_deletes_nothing(tmp_path):
    save_at(tmp_path, 1)
    state = state_at(2)
    state.params["lm_head.weight"][0, 0] = float("nan")
    background = saver(tmp_path, keep=RetentionPolicy(last=1))
    background.save(state, progress_at(2))
    with pytest.raises(NonFinite):
        background.close()
    require_equal(find_newest(tmp_path).checkpoint, 1)


def test_old_checkpoints_go_when_the_new_one_is_whole(tmp_path):
    gone = []
    with saver(tmp_path, keep=RetentionPolicy(last=2), on_delete=gone.append) as background:
        for step in (1, 2, 3, 4):
            background.save(state_at(step), progress_at(step))
    assert [step for step, _ in list_steps(tmp_path)] == [4, 3]
    assert [path.name for path in gone] == ["step-00000001", "step-00000002"]


def test_leftovers_of_a_killed_run_are_gone_when_it_begins_again(tmp_path):
    (tmp_path / ".tmp-step-00000001-aa").mkdir()
    saver(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_does_not_fit_is_told_before_training(tmp_path):
    companions = Companions(tokenizer_json='{"model": {"vocab": {"a": 99}}}')
    with pytest.raises(CheckpointError, match="has 100 tokens, but the model's vocab_size is 12"):
        saver(tmp_path, companions=companions)


def test_a_snapshot_shares_nothing():
    state = state_at(1)
    copy = copy_state(state)
    for name, tensor in state.params.items():
        tensor += 1
        assert (copy.params[name] != tensor).all()


@pytest.mark.parametrize("last", [24, pytest.param(400, marks=pytest.mark.long)])
def test_a_reader_never_sees_a_part(tmp_path, last):
    """While checkpoints come and go, whoever looks finds a whole one, and never an older one."""
    save_at(tmp_path, 1)
    seen, done = [1], threading.Event()

    def write():
        with saver(tmp_path, keep=RetentionPolicy(last=1)) as background:
            for step in range(2, last + 1):
                background.save(state_at(step), progress_at(step))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        found = find_newest(tmp_path)
        require_equal(found.checkpoint, found.checkpoint.progress.step)
        seen.append(found.checkpoint.progress.step)
    writer.join()
    assert seen == sorted(seen)
    require_equal(find_newest(tmp_path).checkpoint, last)
    print(f"{len(seen)} times a whole checkpoint was found while {last} were written")
