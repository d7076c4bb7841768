"""Loops that take steps in turns: their seconds and memory, and how idle the device is."""

import math
import time
from functools import partial
from pathlib import Path

import numpy as np

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Gauge:
    """Bytes on the device: in use now, and the most of them since `reset`."""

    def __init__(self, read, reset, read_most):
        self.read, self.reset, self.read_most = read, reset, read_most


def make_gauge(setting):
    """The gauge of a device: its framework's arrays, or on Linux's CPUs the process; else None."""
    if setting.backend == "mlx":
        import mlx.core as mx

        return Gauge(mx.get_active_memory, mx.reset_peak_memory, mx.get_peak_memory)
    if setting.device.startswith("cuda"):
        import torch

        names = "memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"
        return Gauge(*(partial(getattr(torch.cuda, name), setting.device) for name in names))
    if not CLEAR.exists():
        return None
    return Gauge(partial(read_status, "VmRSS"), reset_high_water, partial(read_status, "VmHWM"))


def read_status(name):
    """Bytes of an entry of /proc/self/status."""
    return 1024 * int(STATUS.read_text().partition(f"{name}:")[2].split()[0])


def reset_high_water():
    """Begin the VmHWM of this process anew."""
    CLEAR.write_text("5")


class Loop:
    """A step that was made and warmed up: the seconds of each turn, and the most bytes of one.

    first_seconds: of making it and its first step, which compiles. Other loops are there meanwhile,
    so its bytes are what it holds itself and what a turn takes above what was there before.
    """

    def __init__(self, make, gauge):
        self._gauge, self.seconds, self.peak = gauge, [], None
        before, start = gauge and gauge.read(), time.perf_counter()
        self._step = make()
        self._step()
        self.first_seconds = time.perf_counter() - start
        self._held = gauge and max(gauge.read() - before, 0)
        self.take_turn()

    def take_turn(self):
        """Take a step, and note its seconds and bytes."""
        gauge = self._gauge
        if gauge:
            gauge.reset()
        before, start = gauge and gauge.read(), time.perf_counter()
        self._step()
        self.seconds.append(time.perf_counter() - start)
        if gauge:
            self.peak = max(self.peak or 0, self._held + gauge.read_most() - before)

    @property
    def median(self):
        """Median seconds of a turn."""
        return float(np.median(self.seconds))


def take_turns(makers, rounds, *, gauge=None, count_left=lambda: math.inf, tell=lambda *_: None):
    """Make each loop and take its first steps, then as many rounds of turns as there is time for.

    makers: what makes each loop's step, by name. tell: is called with what is known, often. Returns
    loops by name, and of those that failed or found no time the reason: that is a figure, too.
    """
    loops, failed, longest = {}, {}, 0.0
    for name, make in makers.items():
        if count_left() < longest:
            failed[name] = f"left out, as {count_left():.0f} s were left for it to begin"
            continue
        try:
            loops[name] = Loop(make, gauge)
        except Exception as error:
            failed[name] = describe_error(error)
        else:
            longest = max(longest, loops[name].first_seconds)
        tell(loops, failed)
    for _ in range(rounds):
        for name, loop in tuple(loops.items()):
            if count_left() < 2 * max(loop.seconds):
                return loops, failed
            try:
                loop.take_turn()
            except Exception as error:
                failed[name] = describe_error(error)
                del loops[name]
        tell(loops, failed)
    return loops, failed


def describe_error(error):
    """An exception in one short line."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]:.120}"


def measure_idle(setting, learner, batch, lr):
    """The share of the time of queued updates in which nothing runs on CUDA; None elsewhere.

    Between the first kernel and the last, so what the profiler itself takes does not count. The
    host reads no number meanwhile, as a run reads one once the next update is queued.
    """
    if not setting.device.startswith("cuda"):
        return None
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        reports = [learner.step(batch, lr) for _ in range(4)]
        float(reports[-1].loss)
        torch.cuda.synchronize(setting.device)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
        and not getattr(event, "is_user_annotation", False)
    ]
    return find_idle_share(spans)


def find_idle_share(spans):
    """The share of the time from the first begin to the last end that no span covers.

    spans: (begin, end) of each, which may overlap. None where there are none.
    """
    if not spans:
        return None
    ordered = sorted(spans)
    begin, reached, covered = ordered[0][0], ordered[0][0], 0.0
    for first, last in ordered:
        covered += max(last - max(first, reached), 0.0)
        reached = max(reached, last)
    return 1 - covered / (reached - begin) if reached > begin else None
