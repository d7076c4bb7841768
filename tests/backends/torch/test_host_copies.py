"""Numbers and checkpoints leave a device that runs ahead of its host, as far as a CPU can play one.

The played device copies nothing until somebody waits for the copy, or until it is told to hold back
what would change the tensor: a step that forgot either would copy later numbers.
"""

import numpy as np
import pytest

from hermes.checkpoint import copy_state
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import OptimizerRecipe, Recipe
from hermes_conformance.faults.played_copies import PlayedLane
from hermes_torch.host_copies import HostCopies
from tests.backends import counting

PLAIN = Recipe()


@pytest.fixture
def lanes(monkeypatch):
    """Every learner's copies are of a played device; its lanes, in the order they were made."""
    made, plain = [], HostCopies.__init__

    def init(self, device, *, beside=False):
        plain(self, device, beside=beside)
        self._lane = PlayedLane()
        made.append(self._lane)

    monkeypatch.setattr(HostCopies, "__init__", init)
    return made


def make_learner(recipe=PLAIN):
    spec = counting.make_spec()
    state = TrainState(init_weights(spec, 0), {}, {}, 0)
    options = Options(device="cpu", compile=False)
    return find_backend("torch").learner(spec, state, recipe, options)


def read_all(state):
    """Every tensor of a state, by its part and name."""
    parts = {"params": state.params, **state.slots}
    return {
        f"{part}.{name}": np.array(held[name], copy=True)
        for part, held in parts.items()
        for name in held
    }


def test_a_step_waits_for_nothing_and_reading_it_waits_for_that_step_alone(lanes):
    batch = counting.make_batch()
    learner = make_learner()
    _, numbers = lanes  # the first is of tensors
    reports = []

    def run():
        for _ in range(3):
            reports.append(learner.step(batch, 1e-3))

    assert find_backend("torch").count_work(run).host_reads == 0
    assert numbers.waits == []
    assert len(numbers.queued) == 3  # one copy a step, whatever is in it
    assert all(report.runs_ahead for report in reports)
    first = float(reports[0].loss), float(reports[0].grad_norm)
    assert numbers.waits == [1]  # and neither 2 nor 3, which are queued behind it
    assert numbers.queued[1:] != [None, None]
    rest = [float(one.loss) for one in reports[1:]]
    assert len({first[0], *rest}) == 3
    assert numbers.waits == [1, 2, 3]


def test_a_decoding_step_of_rows_is_begun_without_a_wait(lanes):
    begin = counting.make_device_step("torch")
    for lane in lanes:
        lane.waits.clear()
    read = begin()
    assert [lane.waits for lane in lanes if lane.waits] == []
    assert read().shape == (2,)
    assert len([lane for lane in lanes if len(lane.waits) == 1]) == 1


def test_late_numbers_are_those_that_are_read_at_once(lanes, monkeypatch):
    batch = counting.make_batch()
    late = make_learner().step(batch, 1e-3)
    monkeypatch.undo()
    now = make_learner().step(batch, 1e-3)
    assert not now.runs_ahead
    assert (float(late.loss), float(late.grad_norm)) == (float(now.loss), float(now.grad_norm))


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "float8"])
def test_a_state_that_leaves_while_training_goes_on_is_that_of_its_step(lanes, moments):
    recipe = Recipe(optimizer=OptimizerRecipe(moments=moments), ema=0.9)
    learner, batch = make_learner(recipe), counting.make_batch()
    tensors = lanes[0]
    learner.step(batch, 1e-3)
    state = learner.state()
    expected = read_all(state)  # waits for each
    staged = copy_state(state)
    assert tensors.waits == []  # begun, not waited for
    assert any(pair is not None for pair in tensors.queued)
    learner.step(batch, 1e-3)
    assert tensors.held_back == 1
    with learner.use_average():
        pass
    learner.step(batch, 1e-3)
    assert tensors.held_back == 1  # nothing is left to wait for
    found = read_all(staged)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    later = read_all(learner.state())
    assert any(not np.array_equal(later[name], expected[name]) for name in expected)


def test_averages_are_swapped_once_copies_are_made(lanes):
    learner, batch = make_learner(Recipe(ema=0.5)), counting.make_batch()
    learner.step(batch, 1e-3)
    expected = read_all(learner.state())
    staged = copy_state(learner.state())
    with learner.use_average():
        found = read_all(staged)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
