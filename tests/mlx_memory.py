"""The most memory that MLX's arrays take at a time."""

import gc

import mlx.core as mx

TIMES = 5


def count_held_bytes():
    """Bytes of the arrays that are held, none of them of what earlier tests left."""
    gc.collect()
    mx.synchronize()  # MLX's own thread frees what it has computed with a moment later
    return mx.get_active_memory()


def measure_peak(run):
    """Bytes of all arrays at their most, of several runs.

    MLX queues operations while its own thread computes: the further ahead, the more arrays there
    are. On a busy machine a run may be less far ahead than most are, and then takes less.
    """
    peaks = []
    for _ in range(TIMES):
        count_held_bytes()  # so that nothing of the run before is left
        mx.reset_peak_memory()
        run()
        mx.synchronize()
        peaks.append(mx.get_peak_memory())
    return max(peaks)
