"""What torch allocates, as its profiler sees it."""

from torch.profiler import ProfilerActivity, profile


def measure_allocated(run):
    """Bytes at the peak of run(), beside what is there before and after it."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
        run()
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    # What was there before the first run and is freed in it is not seen, so is there at the end.
    return peak - now
