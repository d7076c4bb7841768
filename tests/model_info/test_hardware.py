"""What is measured of this machine, and the devices that are known by name."""

import itertools

import pytest

from hermes.errors import HermesError
from hermes.model_info import hardware


def test_the_speed_is_that_of_the_fastest_product(monkeypatch):
    """On a busy machine most wait for their other thread, here nine in ten for 40 ms."""
    spent = itertools.cycle([0.04] * 9 + [0.002])
    clock = itertools.accumulate(spent, initial=0.0)
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: next(clock))
    assert hardware.measure_flops() == pytest.approx(2 * 512**3 / 0.002)


def test_an_unknown_device_is_answered_with_the_nearest_or_all():
    with pytest.raises(HermesError) as refused:
        hardware.find_hardware("h300")
    assert str(refused.value) == "hardware 'h300' is unknown; did you mean 'h200'?"
    with pytest.raises(HermesError, match="'gtx' is unknown; known are h200, h100, "):
        hardware.find_hardware("gtx")
