"""MFU, peak memory and the time that saving takes, in lines of metrics and in the bar."""

import time

import numpy as np
import pytest

from hermes import mal
from hermes.checkpoint import async_saver
from hermes.interface import Batch, DeviceInfo, find_backend
from hermes.model_info.cost import count_flops
from hermes.model_info.datasheets import BY_DRIVER_NAME, BY_SHORT_NAME
from hermes.model_info.devices import find_peak_rate
from hermes.model_info.step_flops import make_step_flops
from hermes.recipe import Recipe
from hermes.training.events import RolledBack, TaskScores, Update
from hermes.training.loss_guard import LossGuard
from hermes.training.metrics_file import read_metrics
from hermes.training.nonfinite import NonFinitePolicy
from hermes.training.progress_bar import LineProgress
from hermes.training.spikes import SpikePolicy
from hermes.training.step_meter import StepCost, StepMeter
from hermes.training.throughput import Throughput
from tests.training.loop_world import World
from tests.training.support import SPEC

H200 = DeviceInfo("cuda", "NVIDIA H200", (9, 0))


def make_batch(size):
    ids = np.zeros((2, 4, size), np.int32)
    return Batch(ids, ids, np.zeros((2, 4), np.uint32))


def count_half_seconds(batch):
    """As if a device took half a second for 16 positions."""
    return batch.tokens.size / 32


def test_what_was_counted_is_read_once():
    meter = StepMeter(count_half_seconds, read_peak=lambda: 7)
    meter.count_batch(make_batch(16))
    meter.count_batch(make_batch(8))
    meter.add_save(0.25)
    meter.add_save(0.5)
    assert meter.read(seconds=60.0) == StepCost(mfu=0.1, peak_memory=7, save_seconds=0.75)
    assert meter.read(seconds=2.0) == StepCost(mfu=0.0, peak_memory=7)
    assert StepMeter().read(seconds=1.0) == StepCost()


def test_what_a_rollback_took_back_is_no_share_of_the_steps_after_it():
    """A step takes a second, and as many at the peak rate as it has positions by 32: a quarter."""
    losses = {made: 1.0 + made % 2 for made in range(60)} | {13: 90.0}
    world = World(losses=losses)
    world.use_learner = lambda learner: None
    world.roll_back = lambda event, position: None
    guard = LossGuard(NonFinitePolicy(), SpikePolicy.parse(text="rollback", window=8, sigma=4))
    recipe = {"save_every": 2, "max_steps": 20}  # so the spike is read between two lines
    events = list(world.run(20, log_every=5, evaluates=False, recipe=recipe, guard=guard,
                            rebuild=lambda saved: world,
                            meter=StepMeter(count_half_seconds)))  # fmt: skip
    assert any(isinstance(event, RolledBack) for event in events)
    shares = [event.mfu for event in events if isinstance(event, Update)]
    assert shares == [0.25] * len(shares)


def test_waiting_for_a_checkpoint_before_tasks_is_time_of_saving():
    """A save takes 50 seconds, its writing behind it another 30, and the tasks 400."""

    class Tasks:
        every = 2

        def evaluate(self, learner, step):
            world.time += 400.0
            return TaskScores(step, {})

    world = World()

    def wait():
        world.time += 30.0

    world.wait = wait
    events = world.run(4, recipe={"save_every": 2}, evaluates=False, tasks=Tasks())
    updates = [event for event in events if isinstance(event, Update)]
    assert [update.save_seconds for update in updates] == [None, None, 80.0, None]
    assert [update.tokens_per_second for update in updates] == [8.0] * 4


def test_rates_are_of_devices_and_precisions_that_are_known():
    assert find_peak_rate("bfloat16", H200) == 989e12
    assert find_peak_rate("bfloat16", DeviceInfo("cuda", "Tesla T4", (7, 5))) is None
    assert find_peak_rate("bfloat16", DeviceInfo("cuda", "NVIDIA H200 NVL", (9, 0))) is None
    assert find_peak_rate("float32", DeviceInfo("cpu")) is None
    assert find_peak_rate("float16", DeviceInfo("cuda", "Tesla T4", (7, 5))) == 65e12
    for sheet in (*BY_DRIVER_NAME.values(), *BY_SHORT_NAME.values()):
        rates = sheet.rates
        in_order = [rates[name] for name in ("bfloat16", "tf32", "float32") if name in rates]
        assert in_order == sorted(in_order, reverse=True)


def test_arithmetic_is_counted_at_the_length_of_rows():
    spec = mal.loads(SPEC)
    assert count_flops(spec, training=True, length=spec.max_seq_len) == count_flops(
        spec, training=True
    )
    # 6 for each weight that multiplies a token; 3 x 2 x 2 layers x 2 heads x (8 + 8) x n besides.
    shorter = count_flops(spec, training=True, length=16) + 3 * 2 * 2 * 2 * 16 * 16 // 2
    assert shorter == count_flops(spec, training=True)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_lines_have_them_alike_on_both_backends(go, monkeypatch, backend):
    kind = type(find_backend(backend))
    monkeypatch.setattr(kind, "describe_device", lambda self, name: H200)
    monkeypatch.setattr(kind, "read_peak_memory", lambda self, name: 123_000_000)
    plain = async_saver.copy_state
    monkeypatch.setattr(async_saver, "copy_state", lambda state: time.sleep(0.2) or plain(state))
    go(max_steps=3, save_every=1, backend=backend, device="cpu", precision="float32")
    lines = [line for line in read_metrics(go.folder / "run") if "loss" in line]
    assert [line["peak_memory"] for line in lines] == [123_000_000] * 3
    assert all(0 <= line["mfu"] < 1e-3 for line in lines)
    assert "save_seconds" not in lines[0]
    assert all(line["save_seconds"] >= 0.2 for line in lines[1:])


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_share_is_told_where_tensors_are_frozen_too(go, monkeypatch, backend):
    kind = type(find_backend(backend))
    monkeypatch.setattr(kind, "describe_device", lambda self, name: H200)
    monkeypatch.setattr(Throughput, "read", lambda self, tokens: (1.0, 1e-9))
    drawn, count = [], StepMeter.count_batch
    monkeypatch.setattr(
        StepMeter, "count_batch", lambda self, batch: (drawn.append(batch), count(self, batch))
    )
    spec, shares = mal.loads(SPEC.replace("300", "290")), {}  # as the tokenizer has it
    for frozen in (0, 2):
        name = f"frozen-{frozen}"
        go(name, max_steps=1, precision="float32", backend=backend, freeze_layers=frozen)
        (line, *_) = read_metrics(go.folder / name)
        flops = make_step_flops(spec, Recipe(freeze_layers=frozen))
        assert line["mfu"] == round(flops.count(drawn[-1]) / 67e12 / 1e-9, 4)
        assert line["peak_memory"] > 10**7  # the process's own, on a CPU
        shares[frozen] = line["mfu"]
    assert shares[2] < 0.6 * shares[0]


def test_the_bar_shows_them(capsys):
    import sys

    known = {"mfu": 0.482, "peak_memory": 12_300_000_000, "save_seconds": 1.26}
    shown = LineProgress(2, 0, sys.stdout)
    shown.show(Update(1, 0.5, 8, 3.21, 1e-3, 1.0, 1234.0, **known))
    said = capsys.readouterr().out
    assert " 1,234 tokens/s, MFU 48 %, 12.3 GB, 1.3 s saving  " in said
