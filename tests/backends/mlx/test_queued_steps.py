"""What the host waits for between two steps, and what it only queues."""

import mlx.core as mx
import pytest

from hermes.interface import Options
from tests.backends import counting
from tests.backends.mlx.played_metal import play_metal


@pytest.fixture
def told(monkeypatch):
    """'queue' and 'wait' in their order, each with the arrays."""
    events = []
    for name, kind in (("async_eval", "queue"), ("eval", "wait")):
        plain = getattr(mx, name)
        monkeypatch.setattr(
            mx, name, lambda *x, kind=kind, plain=plain: events.append((kind, x)) or plain(*x)
        )
    return events


@pytest.mark.parametrize("accum", [1, 3])
def test_a_step_waits_for_the_one_before_it_once_it_is_queued(monkeypatch, told, accum):
    """On a GPU. Each micro-batch is begun before the next one is prepared."""
    play_metal(monkeypatch)
    learner, losses = counting.make_learner("mlx", Options(device="gpu", compile=False)), []
    told.clear()
    for _ in range(3):
        before = learner._last_loss
        learner.step(counting.make_batch(accum), 1e-3)
        passes = accum if accum > 1 else 0
        assert [kind for kind, _ in told] == ["queue"] * (passes + 1) + ["wait"]
        (waited,) = told[-1][1]
        assert waited is before
        losses.append(learner._last_loss)
        told.clear()
    assert len({loss.item() for loss in losses}) == 3


def test_a_step_of_rows_is_queued_and_waits_for_nothing(told):
    begin = counting.make_device_step("mlx")
    told.clear()
    read = begin()
    assert [kind for kind, _ in told] == ["queue"]
    assert read().shape == (2,)
