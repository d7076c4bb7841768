"""Going back to the last checkpoint and on with other samples: exact, on both backends."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hermes
from hermes.checkpoint import open_checkpoint
from hermes.data.tracing import RunTrace
from hermes.errors import HermesError, NonFinite
from hermes.recipe import LossScaling
from hermes.training.events import RolledBack, Spike, Update
from hermes.training.loss_guard import LossGuard
from hermes.training.metrics_file import read_metrics
from hermes.training.nonfinite import NonFinitePolicy
from hermes.training.rollback import LIMIT
from hermes.training.samples import read_samples
from hermes.training.spikes import SpikePolicy
from tests.training.loop_world import World
from tests.training.support import tensors, write_model_that_overflows

OPTIONS = {"seq_len": 16, "batch_size": 4, "max_steps": 12, "save_every": 3, "seed": 5,
           "schedule": "cosine", "warmup_steps": 2, "lr": 3e-3, "sample_every": 2,
           "sample_tokens": 4}  # fmt: skip
NAN = float("nan")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_model_that_overflows(tmp_path_factory.mktemp("rollback"), words=700)


def go(start, output, backend="torch", policy="rollback:1", *, data="some.txt", stop=None,
       seen=None, **options):  # fmt: skip
    files = start / data if isinstance(data, str) else data
    return hermes.finetune(
        start / "model.safetensors", files, config=start / "model.mal",
        tokenizer=start / "base" / "tokenizer.json", output=output, backend=backend,
        on_nonfinite=policy, report=(seen if seen is not None else []).append,
        stop=stop or (lambda: False), **OPTIONS | options,
    )  # fmt: skip


def numbers(output):
    """The run's lines, without how fast it was."""
    measured = ("tokens_per_second", "mfu", "peak_memory", "save_seconds")
    return [{k: v for k, v in r.items() if k not in measured} for r in read_metrics(output)]


def same_tensors(one, other):
    return all(
        (a[name] == b[name]).all()
        for a, b in zip(tensors(one), tensors(other), strict=True)
        for name in a
    )


class Lost(Exception):
    """The machine is gone."""


class Losing(list):
    """Loses the run `later` events after the rollback from a step has been made or resumed."""

    def __init__(self, event, later):
        super().__init__()
        self.event, self.later, self.since = event, later, None

    def append(self, event):
        after = isinstance(event, RolledBack) and event.rollbacks == self.event.rollbacks
        if after or (self.later and event.step > self.event.step):
            self.since = self.since or 0
        if self.since is not None:
            self.since += 1
            if self.since > self.later:
                raise Lost


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_run_goes_back_and_on_and_a_resumed_one_is_the_same(start, tmp_path, backend):
    seen = []
    go(start, tmp_path / "whole", backend, seen=seen)
    back = [event for event in seen if isinstance(event, RolledBack)]
    assert back
    assert back[-1].rollbacks == len(back)
    lines = numbers(tmp_path / "whole")
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 13))  # neither gaps nor repeats
    assert [line["rolled_back_from"] for line in lines if "rollbacks" in line] == [
        event.rolled_back_from for event in back
    ]
    made = [sample["step"] for sample in read_samples(tmp_path / "whole")]
    assert made == sorted(set(made))
    # Lost right behind each rollback, before the next checkpoint, and again two events later.
    for event in back:
        for later in (0, 2):
            with pytest.raises(Lost):
                go(start, tmp_path / "parts", backend, resume=True, seen=Losing(event, later))
    go(start, tmp_path / "parts", backend, resume=True)
    assert numbers(tmp_path / "parts") == lines
    assert same_tensors(tmp_path / "parts/step-00000012", tmp_path / "whole/step-00000012")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_the_loss_scale_of_float16_goes_back_too(start, tmp_path, backend):
    """It is the checkpoint's again, or the first, and what overflowed on the way is forgotten."""
    scaling = LossScaling(initial=2.0**26, growth=4.0, backoff=2.0**-4, interval=3)
    options = {"precision": "float16", "loss_scale": scaling, "sample_every": 0}
    seen = []
    go(start, tmp_path / "whole", backend, seen=seen, **options)
    back = [event for event in seen if isinstance(event, RolledBack)]
    assert back
    lines = numbers(tmp_path / "whole")
    scales = {line["step"]: line["loss_scale"] for line in lines if "loss_scale" in line}
    assert sorted(scales) == list(range(1, 13))
    assert len(set(scales.values())) > 2
    for step in (3, 6, 9):
        kept = open_checkpoint(tmp_path / f"whole/step-{step:08}").state.loss_scale
        assert kept.scale == scales[step + 1]
    for event in back:
        with pytest.raises(Lost):
            go(start, tmp_path / "parts", backend, resume=True, seen=Losing(event, 0), **options)
    go(start, tmp_path / "parts", backend, resume=True, **options)
    assert numbers(tmp_path / "parts") == lines
    assert same_tensors(tmp_path / "parts/step-00000012", tmp_path / "whole/step-00000012")


def test_a_run_that_is_stopped_after_every_step_is_the_same(start, tmp_path):
    options = {"save_every": 1, "max_steps": 5, "sample_every": 0}
    go(start, tmp_path / "whole", **options)
    for _ in range(8):
        if go(start, tmp_path / "parts", stop=lambda: True, resume=True, **options).finished:
            break
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    assert any("rollbacks" in line for line in numbers(tmp_path / "parts"))
    assert same_tensors(tmp_path / "parts/step-00000005", tmp_path / "whole/step-00000005")


def test_the_samples_behind_a_rollback_are_those_that_the_trace_names(start, tmp_path):
    go(start, tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run") if "rollbacks" in line]
    trace = RunTrace(tmp_path / "run")
    jump = lines[-1]
    size = trace.data.records[0].size
    session = trace.find_session(jump["step"] + 1)
    assert session.list_samples(jump["step"] + 1).start == (
        jump["next_epoch"] * size + jump["next_sample"]
    )
    tokenizer = hermes.Tokenizer.load(start / "base" / "tokenizer.json")
    ids, (bad,) = tokenizer.encode((start / "some.txt").read_text()), tokenizer.encode("Q")
    windows = [window for step in range(1, 13) for window in trace.list_windows(step)]
    assert bad in ids
    assert not any(bad in ids[one.start : one.start + 17] for one in windows)


def test_both_backends_go_back_at_the_same_steps_and_hand_over(start, tmp_path):
    seen = []
    for backend in ("torch", "mlx"):
        go(start, tmp_path / backend, backend, seen=seen)
    jumps = [[line for line in numbers(tmp_path / name) if "rollbacks" in line]
             for name in ("torch", "mlx")]  # fmt: skip
    assert jumps[0] == jumps[1] != []
    first = next(event for event in seen if isinstance(event, RolledBack))
    with pytest.raises(Lost):
        go(start, tmp_path / "over", "torch", seen=Losing(first, 0))
    go(start, tmp_path / "over", "mlx", resume=True)
    assert [line for line in numbers(tmp_path / "over") if "rollbacks" in line] == jumps[0]


@pytest.mark.parametrize("log_every", [1, 4])
@pytest.mark.long
def test_how_often_a_run_logs_changes_nothing_of_what_it_computes(start, tmp_path, log_every):
    go(start, tmp_path / "run", log_every=log_every)
    go(start, tmp_path / "other", log_every=3)
    assert same_tensors(tmp_path / "run/step-00000012", tmp_path / "other/step-00000012")


def test_a_run_whose_every_sample_is_bad_stops_with_one_sentence(start, tmp_path):
    with pytest.raises(NonFinite) as error:
        go(start, tmp_path / "run", policy="rollback:2", data="every.txt")
    assert str(error.value).startswith("step 2: the loss is nan, and the run has gone back to the")
    assert f"beginning {LIMIT} times without reaching its next checkpoint" in str(error.value)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_checkpoints_of_steps_that_were_left_out_are_no_progress(start, tmp_path, backend):
    """Each rollback is to another one; a run that is stopped and resumed counts them alike."""
    message = rf"gone back {LIMIT} times without a step between that could be made"
    given = {"policy": "rollback:2", "data": "every.txt", "save_every": 1, "max_steps": 30}
    with pytest.raises(NonFinite, match=message):
        go(start, tmp_path / "run", backend, **given)
    run, again = read_metrics(tmp_path / "run"), tmp_path / "again"
    assert [line["rollbacks"] for line in run if "rollbacks" in line] == [1, 2, 3]
    stopped = iter([False, False, False, True])
    go(start, again, backend, stop=lambda: next(stopped, True), **given)
    with pytest.raises(NonFinite, match=message):
        go(start, again, backend, resume=True, **given)
    assert numbers(again) == numbers(tmp_path / "run")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_weights_change_at_their_steps_after_a_rollback_too(start, tmp_path, backend):
    few = tmp_path / "few.txt"
    few.write_text(" ".join((start / "some.txt").read_text().split()[:260]))
    data = {"bad": {"files": str(few), "weight": 0.9},
            "good": {"files": str(start / "text.txt"), "weight": 0.1},
            "schedule": {"5": {"bad": 0.3, "good": 0.7},
                         "8": {"bad": 0.0, "good": 1.0}}}  # fmt: skip
    seen = []
    go(start, tmp_path / "whole", backend, data=data, seen=seen)
    back = [event for event in seen if isinstance(event, RolledBack)]
    assert back
    # Rows of each source, by what data.json says of the steps that were trained on.
    trace = RunTrace(tmp_path / "whole")
    rows = {step: [one.source for one in trace.list_windows(step)] for step in range(1, 13)}
    assert sum(rows[9] + rows[10] + rows[11] + rows[12]) == 16
    assert 0 in rows[1] + rows[2] + rows[3] + rows[4]
    taken = [one for step in rows for one in trace.list_windows(step)]
    assert len({(one.source, one.epoch, one.start) for one in taken}) == 48
    ids = hermes.Tokenizer.load(start / "base" / "tokenizer.json")
    text, (bad,) = ids.encode(few.read_text()), ids.encode("Q")
    assert bad in text
    assert not any(bad in text[w.start : w.start + 17] for w in taken if w.source == 0)
    for event in back:
        for later in (0, 2):
            with pytest.raises(Lost):
                go(start, tmp_path / "parts", backend, data=data, resume=True,
                   seen=Losing(event, later))  # fmt: skip
    go(start, tmp_path / "parts", backend, data=data, resume=True)
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    assert same_tensors(tmp_path / "parts/step-00000012", tmp_path / "whole/step-00000012")


def make_guard(**options):
    return LossGuard(NonFinitePolicy(), SpikePolicy.parse(window=8, sigma=4, **options))


def test_a_spike_is_taken_back_and_the_window_with_it():
    """Losses 1 and 2 by turns; the step made as 13th has 90."""
    losses = {made: 1.0 + made % 2 for made in range(60)} | {13: 90.0}
    world, built = World(losses=losses), []
    world.use_learner = lambda learner: None
    world.roll_back = lambda event, position: world.log.append(f"back {position.step}")

    def rebuild(saved):
        built.append(saved)
        return world

    guard = make_guard(text="rollback")
    recipe = {"save_every": 4, "max_steps": 20}
    events = list(world.run(20, log_every=5, evaluates=False, recipe=recipe, guard=guard,
                            rebuild=rebuild))  # fmt: skip
    (back,) = [event for event in events if isinstance(event, RolledBack)]
    assert (back.step, back.rolled_back_from, back.rollbacks) == (12, 13, 1)
    # Each step takes 2 of 10 samples: the 14th begins at sample 26, of epoch 2 the 6th.
    assert (back.next_epoch, back.next_sample) == (2, 6)
    assert built == [Path("step-12")]
    assert "back 12" in world.log
    assert max(guard.spikes.losses) == 2.0


def test_spikes_are_counted_and_stopped_at():
    losses = {made: 1.0 + made % 2 for made in range(60)} | {13: 90.0, 14: 90.0, 17: 90.0}
    guard = make_guard(text="count")
    events = list(World(losses=losses).run(20, evaluates=False, guard=guard))
    assert [event.step for event in events if type(event).__name__ == "Spike"] == [13, 14, 17]
    with pytest.raises(NonFinite, match=r"step 14: the loss is 90.0000, where the last 8 were"):
        list(World(losses=losses).run(20, evaluates=False, guard=make_guard(text="stop:2")))
    for text in ("", "rollback:0", "skip:0", "halt"):
        with pytest.raises(HermesError, match="--on-spike must be ignore, count, stop, stop:N, sk"):
            make_guard(text=text)


def test_a_resumed_run_finds_the_spikes_of_an_unbroken_one(start, tmp_path):
    """A window of losses is in the checkpoint, however seldom they are logged."""
    options = {"on_spike": "count", "spike_sigma": 0.5, "spike_window": 4, "log_every": 5,
               "lr": 1e-6}  # fmt: skip
    go(start, tmp_path / "whole", policy="skip:4", **options)
    for stop in (lambda: True, lambda: True, lambda: False):
        go(start, tmp_path / "parts", policy="skip:4", resume=True, stop=stop, **options)
    found = [[line for line in numbers(tmp_path / name) if "spikes" in line]
             for name in ("whole", "parts")]  # fmt: skip
    assert found[0] == found[1] != []


SPIKES = {"on_spike": "skip:9", "spike_sigma": 0.5, "spike_window": 4, "log_every": 5, "lr": 1e-6,
          "sample_every": 0}  # fmt: skip


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_spike_is_left_out_and_a_resumed_run_is_the_same(start, tmp_path, backend):
    seen = []
    go(start, tmp_path / "whole", backend, "skip:4", seen=seen, **SPIKES)
    found = {event.step for event in seen if isinstance(event, Spike) and event.skipped}
    assert found
    lines = [line for line in numbers(tmp_path / "whole") if "spikes" in line]
    assert [str(line["skipped"]) for line in lines] == ["1"] * len(found)
    go(start, tmp_path / "parts", backend, "skip:4", resume=True, stop=lambda: True, **SPIKES)
    go(start, tmp_path / "parts", backend, "skip:4", resume=True, **SPIKES | {"log_every": 1})
    assert [line for line in numbers(tmp_path / "parts") if "spikes" in line] == lines
    assert same_tensors(tmp_path / "parts/step-00000012", tmp_path / "whole/step-00000012")


def test_both_backends_leave_out_the_same_spikes(start, tmp_path):
    found = []
    for backend in ("torch", "mlx"):
        go(start, tmp_path / backend, backend, "skip:4", **SPIKES)
        found.append([line for line in numbers(tmp_path / backend) if "spikes" in line])
    assert found[0] == found[1] != []


def test_a_backend_that_knows_no_limit_is_refused_at_the_first_step():
    with pytest.raises(HermesError, match="does not leave out a step by its loss"):
        list(World().run(4, evaluates=False, guard=make_guard(text="skip")))


def test_each_loss_is_read_before_the_next_step_is_limited_by_it():
    """Losses 1 and 2 by turns, and 90 at step 13: the limit is that of those before."""
    world = World(losses={made: 1.0 + made % 2 for made in range(60)} | {13: 90.0})
    limits, step = [], world.step

    def note_limit_and_step(batch, lr):
        limits.append(batch.loss_limit)
        report = step(batch, lr)
        return replace(report, applied=float(report.loss.value <= batch.loss_limit))

    world.step = note_limit_and_step
    guard = make_guard(text="skip:2")
    events = list(world.run(20, log_every=5, evaluates=False, guard=guard))
    known = [loss for made, loss in sorted(world.losses.items()) if made not in (0, 13)]
    before = [known[max(0, at - 8 - (at > 12)) : at - (at > 12)] for at in range(20)]
    expected = [np.mean(few) + 4 * np.std(few) if len(few) >= 4 else math.inf for few in before]
    assert limits == pytest.approx(expected)
    assert [event.step for event in events if isinstance(event, Spike)] == [13]
    rates = [event.tokens_per_second for event in events if isinstance(event, Update)]
    assert rates == [8.0] * 5  # of all steps since the line before, not of the last one
