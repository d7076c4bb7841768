"""The loop alone, over a learner that only counts: when it logs, saves, evaluates and stops."""

import threading
from copy import deepcopy
from pathlib import Path

import pytest

from hermes.data import Cursor
from hermes.errors import NonFinite, StorageError
from hermes.training.events import Position, Saved, Stopped, Update
from hermes.training.loss_guard import LossGuard
from hermes.training.nonfinite import NonFinitePolicy
from hermes.training.recording import choose_log_every
from hermes.training.spikes import SpikePolicy
from tests.training.loop_world import World
from tests.waiting import PATIENCE


def kinds(events):
    return [(type(event).__name__, event.step) for event in events]


def test_a_run_logs_every_update_then_saves_and_evaluates_at_its_end():
    events = list(World().run(3))
    assert kinds(events) == [
        ("Update", 1),
        ("Update", 2),
        ("Update", 3),
        ("Saved", 3),
        ("Evaluation", 3),
    ]


def test_every_line_is_recorded_before_the_checkpoint_that_follows_it():
    world = World()
    list(world.run(4, recipe={"save_every": 2, "eval_every": 2}))
    log = [line for line in world.log if not line.startswith("step")]
    assert log == [
        "record Update 1",
        "record Update 2",
        "evaluate 2",
        "record Evaluation 2",
        "save 2",
        "record Update 3",
        "record Update 4",
        "save 4",
        "evaluate 4",
        "record Evaluation 4",
        "wait",
        "close",
    ]


def test_a_checkpoint_is_told_of_when_it_is_on_disk_and_not_before():
    world = World(saved=False)
    seen = []
    for event in world.run(6, recipe={"save_every": 2}, evaluates=False):
        seen.append((type(event).__name__, event.step))
        if event.step == 5:
            world.saved = True
        if isinstance(event, Saved):
            # The next save, which may delete this checkpoint, has not begun.
            assert [line for line in world.log if line.startswith("save ")][-1] == (
                f"save {event.step}"
            )
            world.saved = False
    assert seen == [
        ("Update", 1), ("Update", 2), ("Update", 3), ("Update", 4),
        ("Saved", 2),  # the next save waits for it
        ("Update", 5), ("Saved", 4), ("Update", 6), ("Saved", 6),
    ]  # fmt: skip


def test_a_save_that_fails_is_never_told_of():
    world = World(saved=False, failure=StorageError("the disk is full"))
    seen = []
    with pytest.raises(StorageError, match="the disk is full"):
        seen.extend(type(event) for event in world.run(2))
    assert Saved not in seen


def test_an_update_carries_tokens_epochs_and_the_rate_of_the_schedule():
    events = World().run(2, evaluates=False, recipe={"schedule": "cosine"})
    first, second = [event for event in events if isinstance(event, Update)]
    assert (first.tokens, second.tokens) == (8, 16)
    assert (first.epoch, second.epoch) == (0.2, 0.4)
    assert first.lr == pytest.approx(3e-4)
    assert second.lr == pytest.approx(3e-5)
    assert (first.loss, first.grad_norm) == (101, 1.0)


def test_numbers_stay_on_the_device_until_a_line_is_due():
    world = World()
    for event in world.run(10, log_every=5, evaluates=False):
        if isinstance(event, Update) and event.step == 5:
            break
    assert world.read == [101, 102, 103, 104, 105]  # step 1 by itself, the others together
    steps = [e.step for e in World().run(12, log_every=5) if isinstance(e, Update)]
    assert steps == [1, 5, 10, 12]


def test_saving_reads_what_is_pending_without_logging_more():
    world = World()
    events = list(world.run(10, log_every=10, recipe={"save_every": 4}))
    steps = [e.step for e in events if isinstance(e, Update)]
    assert steps == [1, 10]
    assert sorted(world.read) == [100 + s for s in range(1, 11)]
    assert world.log.index("save 4") > world.log.index("step 4")


def test_logging_is_thinner_in_long_runs():
    assert (choose_log_every(9_999), choose_log_every(10_000)) == (1, 10)


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_tokens_per_second_leaves_out_saving_and_evaluating(runs_ahead):
    """A step takes a second and has 8 targets; a save takes 50 seconds, an evaluation 70."""
    events = World(runs_ahead=runs_ahead).run(6, recipe={"save_every": 2, "eval_every": 2})
    rates = [e.tokens_per_second for e in events if isinstance(e, Update)]
    assert rates == [8.0] * 6


def test_what_is_done_with_an_earlier_checkpoint_is_no_time_of_saving():
    """A save takes 50 seconds, and who is told of it, as one that pushes it, 900."""
    world, updates = World(saved=False), []
    for event in world.run(5, recipe={"save_every": 2}, evaluates=False):
        if isinstance(event, Saved):
            world.time += 900.0
            world.saved = False
        if isinstance(event, Update):
            updates.append(event)
    assert [update.save_seconds for update in updates] == [None, None, 50.0, None, 50.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_by_the_name_of_its_step(bad):
    world = World(losses={7: bad})
    with pytest.raises(NonFinite) as error:
        list(world.run(20, log_every=5, recipe={"save_every": 4}))
    assert str(error.value) == (
        f"step 7: the loss is {bad} at learning rate 0.0003, so training stopped; the last good "
        "checkpoint is step-4; start from it by --checkpoint step-4 with another --output, and a "
        "lower --lr or a longer --warmup-steps"
    )
    assert "save 8" not in world.log
    assert "wait" in world.log


def test_a_gradient_that_is_no_number_ends_the_run_too():
    world = World(norms={2: float("inf")})
    with pytest.raises(NonFinite, match=r"step 2: the gradient norm is inf .* nothing was saved"):
        list(world.run(5))
    assert not any(line.startswith("save") for line in world.log)


@pytest.mark.parametrize("log_every", [1, 4])
def test_steps_that_are_not_finite_are_skipped_counted_and_stop_a_run_in_a_row(log_every):
    nan = float("nan")
    world = World(losses={2: nan, 3: nan, 5: nan}, norms={8: nan, 9: nan, 10: nan})
    events = []
    policy = NonFinitePolicy.parse("skip:3")
    with pytest.raises(NonFinite) as error:
        events.extend(
            world.run(20, log_every=log_every, evaluates=False, recipe={"save_every": 4},
                      guard=LossGuard(policy))
        )  # fmt: skip
    assert "step 10: the gradient norm is nan" in str(error.value)
    assert "the last of 3 such steps in a row" in str(error.value)
    assert "the last good checkpoint is step-8" in str(error.value)
    assert policy.total == 6
    told = [line for line in world.log if line.startswith("record Skipped")]
    assert told == [f"record Skipped {step}" for step in (2, 3, 5, 8, 9)]
    assert "save 4" in world.log


def test_lines_before_the_bad_update_are_recorded():
    world = World(losses={3: float("nan")})
    with pytest.raises(NonFinite):
        list(world.run(5, log_every=1))
    assert [line for line in world.log if line.startswith("record")] == [
        "record Update 1",
        "record Update 2",
    ]


def test_a_bad_update_is_found_before_a_checkpoint_is_written():
    world = World(losses={4: float("nan")})
    with pytest.raises(NonFinite, match="step 4"):
        list(world.run(100, log_every=50, recipe={"save_every": 5}))
    assert "save 5" not in world.log


def test_a_stop_finishes_the_update_saves_and_says_that_there_is_more():
    world = World(stop_after=3)
    events = list(world.run(10))
    assert events[-2:] == [Saved(3, Path("step-3")), Stopped(3)]
    assert world.log[-3:] == ["save 3", "wait", "close"]


def test_a_stop_where_a_save_was_due_saves_once():
    world = World(stop_after=4)
    list(world.run(10, recipe={"save_every": 2}))
    assert [line for line in world.log if line.startswith("save")] == ["save 2", "save 4"]


def test_a_stop_within_an_evaluation_saves_and_leaves_the_evaluation_for_later():
    events = list(World(val_loss=None).run(10, recipe={"eval_every": 4}))
    assert events[-2:] == [Saved(4, Path("step-4")), Stopped(4)]


def test_an_evaluation_that_was_left_out_comes_first_when_the_run_goes_on():
    resumed = {"position": Position(4, 32, Cursor(0, 8)), "saved": Path("step-4")}
    recipe = {"eval_every": 4}
    assert kinds(World().run(6, recipe=recipe, **resumed))[:2] == [("Evaluation", 4), ("Update", 5)]
    events = kinds(World().run(6, recipe=recipe, evaluated=True, **resumed))
    assert events[0] == ("Update", 5)


def test_a_stop_in_the_last_update_leaves_only_the_evaluation():
    world = World(stop_after=3)
    assert kinds(world.run(3))[-2:] == [("Saved", 3), ("Stopped", 3)]
    again = World()
    events = again.run(3, position=Position(3, 24, Cursor(0, 6)), saved=Path("step-3"))
    assert kinds(events) == [("Evaluation", 3)]
    assert not any(line.startswith(("step", "save")) for line in again.log)


def test_a_stop_in_the_last_update_without_evaluation_is_the_end():
    events = list(World(stop_after=3).run(3, evaluates=False))
    assert kinds(events)[-1] == ("Saved", 3)


def test_a_run_goes_on_from_its_position():
    world = World()
    events = world.run(6, position=Position(4, 32, Cursor(0, 8)), saved=Path("step-4"))
    done = [event for event in events if isinstance(event, Update)]
    assert [(u.step, u.tokens, u.epoch) for u in done] == [(5, 40, 1.0), (6, 48, 1.2)]


def test_a_validation_loss_that_is_no_number_ends_the_run():
    world = World(val_loss=float("nan"))
    with pytest.raises(NonFinite, match="step 2: the validation loss is nan"):
        list(world.run(4, recipe={"eval_every": 2}))
    assert "save 2" not in world.log


def test_a_device_that_runs_ahead_has_the_next_step_before_the_host_waits_for_one():
    world = World(runs_ahead=True)
    list(world.run(7, evaluates=False, recipe={"save_every": 5}))
    assert [line for line in world.log if line not in ("wait", "close")] == [
        "step 1", "record Update 1",  # the first line is waited for
        "step 2", "step 3", "record Update 2", "step 4", "record Update 3",
        "step 5", "record Update 4", "record Update 5", "save 5",  # nothing unread is saved
        "step 6", "step 7", "record Update 6", "record Update 7", "save 7",
    ]  # fmt: skip


def test_the_batch_of_the_next_step_is_drawn_while_one_is_computed():
    """A step that would wait for ever if the next batch were drawn behind it; of the last, none."""
    world, drawn, threads = World(), threading.Semaphore(0), []
    draw_batch, step = world.draw_batch, world.step

    def draw(*arguments, **options):
        threads.append(threading.current_thread().name)
        drawn.release()
        return draw_batch(*arguments, **options)

    def compute(batch, lr):
        assert drawn.acquire(timeout=PATIENCE)  # its own
        assert world.made == 3 or drawn.acquire(timeout=PATIENCE)
        drawn.release()
        return step(batch, lr)

    world.draw_batch, world.step = draw, compute
    list(world.run(4, evaluates=False))
    assert [name.startswith("batches") for name in threads] == [False, True, True, True]


def test_steps_without_a_line_are_read_once_the_step_behind_the_line_is_queued():
    world = World(runs_ahead=True)
    steps = []
    for event in world.run(13, log_every=5, evaluates=False):
        steps.append((type(event).__name__, event.step, world.made))
    assert steps[:4] == [("Update", 1, 1), ("Update", 5, 6), ("Update", 10, 11), ("Update", 13, 13)]
    assert world.read == [100 + step for step in range(1, 14)]


NAN = float("nan")
POLICIES = {
    "stop": ({7: NAN}, {}),
    "skip": ({2: NAN, 6: NAN, 9: NAN}, {"nonfinite": NonFinitePolicy.parse("skip:2")}),
    "in a row": ({4: NAN, 5: NAN, 6: NAN}, {"nonfinite": NonFinitePolicy.parse("skip:3")}),
    "spikes": ({17: 900.0}, {"spikes": SpikePolicy.parse("stop:1", window=8)}),
}


@pytest.mark.parametrize("log_every", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_run_writes_and_raises_is_the_same_whether_the_device_runs_ahead(policy, log_every):
    def go(runs_ahead):
        losses, policies = POLICIES[policy]
        world = World(losses=losses, runs_ahead=runs_ahead)
        guard, events, error = LossGuard(**deepcopy(policies)), [], None
        try:
            for event in world.run(20, log_every=log_every, guard=guard,
                                   recipe={"save_every": 8, "eval_every": 4}):  # fmt: skip
                events.append(event)
        except NonFinite as told:
            error = str(told)
        told = [line for line in world.log if not line.startswith("step")]
        return told, sorted(world.read), events, error

    told, read, events, error = go(False)
    late_told, late_read, late_events, late_error = go(True)
    assert late_told == told
    assert late_error == error
    assert (error is None) == (policy == "skip")
    # A step that was queued behind the last one read is dropped unread.
    assert repr(late_read) == repr(read)
    saved = [event for event in events if isinstance(event, Saved)]
    assert [event for event in late_events if isinstance(event, Saved)] == saved
    rest = [event for event in events if not isinstance(event, Saved)]
    assert repr([event for event in late_events if not isinstance(event, Saved)]) == repr(rest)


def test_a_stop_leaves_nothing_unread():
    world = World(stop_after=4, runs_ahead=True)
    assert kinds(world.run(10, evaluates=False))[-3:] == [
        ("Update", 4),
        ("Saved", 4),
        ("Stopped", 4),
    ]
    assert world.read == [101, 102, 103, 104]
