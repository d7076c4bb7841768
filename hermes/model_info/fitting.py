"""Whether what is about to be built fits into the memory of its device."""

from dataclasses import dataclass

from hermes.errors import OutOfMemory
from hermes.formatting import format_count, format_with_unit
from hermes.interface import Backend
from hermes.model_info.activations import BYTES_OF
from hermes.model_info.cost import BYTES, MASTER, find_cache_type
from hermes.model_info.memory import read_host_memory
from hermes.numerics.params import list_parameters
from hermes.numerics.row_layout import count_cache_bytes
from hermes.spec import ModelSpec

__all__ = [
    "FreeMemory",
    "check_cache",
    "count_loaded_bytes",
    "find_free_memory",
    "find_main_memory",
    "require_memory",
]

LOAD_ADVICE = "choose a smaller precision or another device"


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that are free, and the words that say so. is_shared: by all processes here.

    limit: what leaves less than the machine has, as HostMemory has it. total: of the machine, also
    what others hold now; of a device what is free.
    """

    available: int
    total: int
    found: str
    is_shared: bool
    limit: str = ""


def find_free_memory(backend: Backend, device: str) -> FreeMemory | None:
    """What the device has, or main memory where it computes there; None if nobody says."""
    count = getattr(backend, "count_free_memory", None)
    free = count(device) if count else None
    if free is not None:
        found = f"{device} has {format_with_unit(free, 'B')} free"
        return FreeMemory(free, free, found, is_shared=False)
    return find_main_memory()


def find_main_memory() -> FreeMemory | None:
    """What of main memory this process can have; None if the system does not say."""
    memory = read_host_memory()
    if memory is None:
        return None
    total, rest = format_with_unit(memory.total, "B"), format_with_unit(memory.available, "B")
    found = f"of this machine's {total} {rest} is available"
    if memory.limit:
        found += f", because of {memory.limit}"
    return FreeMemory(memory.available, memory.total, found, True, memory.limit)


def count_loaded_bytes(spec: ModelSpec, precision: str) -> int:
    """Count the bytes of a model's weights that only computes, without the KV cache."""
    matrix = BYTES_OF.get(precision, MASTER)
    vector = max(matrix, MASTER)
    return sum(
        one.size * (matrix if len(one.shape) > 1 else vector)
        for one in list_parameters(spec).values()
    )


def require_memory(
    what: str, needed: int, free: FreeMemory | None, *, force: bool, advice: str = LOAD_ADVICE
) -> list[str]:
    """Compare what something needs with what there is. -> sentences for the user

    what: the words before the bytes. Raises OutOfMemory where it cannot fit, unless it is forced.
    """
    if free is None or needed <= free.available:
        return []
    found = f"{what} needs {format_with_unit(needed, 'B')} of memory, and {free.found}"
    if force:
        return [found]
    raise OutOfMemory(f"{found}; {advice}, or force it with --force")


def check_cache(
    backend: Backend,
    spec: ModelSpec,
    device: str,
    precision: str,
    shape: tuple[int, int],
    *,
    force: bool,
    advice: str,
) -> list[str]:
    """Compare what a KV cache takes with what its device has. -> sentences for the user

    shape: rows and capacity, in tokens. Raises OutOfMemory where it does not fit, unless forced.
    """
    rows, capacity = shape
    size = BYTES[find_cache_type(backend.name, device, precision)]
    needed = count_cache_bytes(spec, rows, capacity, size)
    what = f"the KV cache of {format_count(rows, 'rows')} of {format_count(capacity, 'tokens')}"
    free = find_free_memory(backend, device)
    return require_memory(what, needed, free, force=force, advice=advice)
