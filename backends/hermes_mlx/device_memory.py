"""Memory of a Mac's GPU, which it shares with the system: what MLX wires, keeps, and gives back.

Buffers that are not wired may be paged out between two uses, which makes a step many times slower;
those that MLX has freed it keeps for later arrays, up to 1.5 times the recommended working set.
"""

import mlx.core as mx

__all__ = ["CLEAR_EVERY", "METAL_CHUNK", "claim_memory", "clear_cache", "count_free_memory"]

WORKING_SET = "max_recommended_working_set_size"
CACHE_SHARE = 4  # freed buffers may take a quarter: a step's own sizes return, others do not
CLEAR_EVERY = 256  # tokens of a text, as in mlx-lm: each has made buffers of another length
METAL_CHUNK = 2048  # tokens of a prompt that are read at once, as in mlx-lm: a GPU wants many rows


def read_working_set() -> int | None:
    """The bytes that Metal recommends to use at once; None on other devices."""
    if not mx.metal.is_available():
        return None
    found = mx.device_info(mx.Device(mx.gpu)).get(WORKING_SET)
    return int(found) if found else None


def claim_memory(device: mx.Device) -> None:
    """Wire up to the recommended working set, and keep a part of it for freed buffers.

    Of the whole process and for good: to change what is wired while it runs has crashed macOS
    (github.com/ml-explore/mlx issues 3186 and 3346), and a process that ends gives it back.
    """
    working_set = read_working_set() if device == mx.Device(mx.gpu) else None
    if working_set:
        mx.set_wired_limit(working_set)
        mx.set_cache_limit(working_set // CACHE_SHARE)


def clear_cache(device: mx.Device) -> None:
    """Give freed buffers of the GPU back; on a CPU there are none to speak of."""
    if device == mx.Device(mx.gpu):
        mx.clear_cache()


def count_free_memory(device: str) -> int | None:
    """Bytes of the working set that no array has; None where Metal does not compute."""
    working_set = read_working_set() if device == "gpu" else None
    return None if working_set is None else max(working_set - mx.get_active_memory(), 0)
