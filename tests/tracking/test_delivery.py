"""What trackers are told, and that none of them can harm or hold up a run."""

import json
import time

from hermes.tracking.delivery import TrackerDelivery
from hermes.tracking.tracker import name_curves
from hermes.training.tracking import find_logged_steps
from tests.tracking.support import Failing, Hanging, Remembering, Rewinding, describe_run, keep
from tests.waiting import PATIENCE


def test_curves_are_grouped_by_what_they_measure():
    record = {"step": 3, "loss": 2.0, "val_loss": 2.5, "val_bits_per_byte": 1.25}
    assert name_curves(record) == {"train/loss": 2.0, "val/loss": 2.5, "val/bits_per_byte": 1.25}


def test_a_tracker_is_told_everything_in_order_and_whether_the_run_finished(tmp_path):
    for stopped in (False, True):
        made, said = [], []
        makers = {"own": keep(Remembering, made)}
        with TrackerDelivery(makers, describe_run(tmp_path), {}, said.append) as trackers:
            for step in range(1, 101):
                trackers.log({"step": step, "loss": 1 / step})
            trackers.log_text(100, "sample/0", "a text")
            if stopped:
                trackers.mark_stopped()
        assert made[0].logged == [(step, {"train/loss": 1 / step}) for step in range(1, 101)]
        assert made[0].texts == [(100, "sample/0", "a text")]
        assert made[0].ended is not stopped
        assert said == []


def test_an_error_of_the_run_is_no_finished_run(tmp_path):
    made = []
    try:
        with TrackerDelivery({"own": keep(Remembering, made)}, describe_run(tmp_path), {}, print):
            raise ValueError
    except ValueError:
        assert made[0].ended is False


def test_steps_that_an_earlier_session_logged_go_to_trackers_that_rewind_alone(tmp_path):
    plain, rewinding = [], []
    makers = {"plain": keep(Remembering, plain), "rewinding": keep(Rewinding, rewinding)}
    logged = {"train": 12, "val": 10, "text": 10}
    with TrackerDelivery(makers, describe_run(tmp_path, 10), logged, print) as trackers:
        for step in (11, 12, 13):
            trackers.log({"step": step, "loss": 1.0})
        trackers.log({"step": 12, "val_loss": 2.0})
        trackers.log_text(12, "sample/0", "text")
    assert [step for step, _ in rewinding[0].logged] == [11, 12, 13, 12]
    assert plain[0].logged == [(13, {"train/loss": 1.0}), (12, {"val/loss": 2.0})]
    assert plain[0].texts == [(12, "sample/0", "text")]


def test_what_trackers_were_told_of_is_read_from_the_metrics(tmp_path):
    assert find_logged_steps(tmp_path) == {}
    lines = [
        {"step": 10, "loss": 2.0, "tokens": 640},
        {"step": 10, "val_loss": 2.5},
        {"step": 10, "task/arc/acc": 0.25},
        {"step": 11, "skipped_steps": 1, "tokens": 704, "lr": 0.1},  # it has no loss
    ]
    write_lines(tmp_path, lines)
    told = {"train": 11, "val": 10, "task": 10, "text": 0}
    assert find_logged_steps(tmp_path) == told
    # The lines of steps that were taken back are gone; what trackers were told of them is not.
    back = {"step": 10, "rollbacks": 1, "rolled_back_from": 16, "next_epoch": 0, "next_sample": 64}
    write_lines(tmp_path, [*lines, back])
    assert find_logged_steps(tmp_path) == dict.fromkeys(told, 15)


def write_lines(folder, records):
    lines = (json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text("".join(lines))


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(tmp_path):
    failing, sound, said = [], [], []
    makers = {"mine": keep(Failing, failing), "other": keep(Remembering, sound)}
    with TrackerDelivery(makers, describe_run(tmp_path), {}, said.append) as trackers:
        for step in range(1, 6):
            trackers.log({"step": step, "loss": 1.0})
    assert said == ["Warning: mine follows the run no longer: ConnectionError: the server is gone"]
    assert len(failing[0].logged) == 2
    assert len(sound[0].logged) == 5


def test_a_tracker_that_hangs_holds_up_neither_the_run_nor_its_end(tmp_path):
    made, said = [], []
    Hanging.over.clear()
    trackers = TrackerDelivery(
        {"slow": keep(Hanging, made)}, describe_run(tmp_path), {}, said.append, patience=0.3
    )
    started = time.monotonic()
    with trackers:
        for step in range(1, 1001):
            trackers.log({"step": step, "loss": 1.0})
    Hanging.over.set()
    assert time.monotonic() - started < PATIENCE
    assert said == [
        "Warning: slow has not taken everything within 0.3 s; its last numbers may be missing there"
    ]
