"""A CPU that says it is Metal's GPU."""

import mlx.core as mx

from hermes_mlx import runtime


def play_metal(monkeypatch, working_set=1 << 30):
    """MLX says that its GPU is Metal's, and computes on the CPU; what it is asked for is listed."""
    asked = []
    monkeypatch.setattr(mx, "gpu", mx.cpu)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    told = {"max_recommended_working_set_size": working_set}
    monkeypatch.setattr(mx, "device_info", lambda device=None: told)
    monkeypatch.setattr(runtime, "list_devices", lambda: ("gpu", "cpu"))
    for name in ("set_wired_limit", "set_cache_limit", "clear_cache"):
        monkeypatch.setattr(mx, name, lambda *a, name=name: asked.append((name, *a)))
    return asked
