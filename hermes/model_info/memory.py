"""How much memory a model needs, and how much this machine has for one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hermes.errors import HermesError, OutOfMemory, describe_exhaustion, is_out_of_memory
from hermes.formatting import format_with_unit
from hermes.interface import Backend
from hermes.model_info.cost import MASTER, count_matmul_weights
from hermes.numerics.frozen import list_frozen_matrices
from hermes.numerics.lora import list_adapter_tensors, list_trainable
from hermes.numerics.params import list_parameters
from hermes.numerics.update_rules import count_state_bytes
from hermes.process_limits import list_process_limits
from hermes.process_memory import read_process_peak
from hermes.recipe import Recipe
from hermes.spec import ModelSpec

__all__ = [
    "HostMemory",
    "count_training_bytes",
    "explain_out_of_memory",
    "read_host_memory",
    "read_memory_limits",
    "read_peak_memory",
]

UNLIMITED = 1 << 60


@dataclass(frozen=True)
class HostMemory:
    """Bytes of main memory. total: of the machine, container or limit; available: not in use.

    limit: what leaves less than the machine has, in words; '' where nothing does.
    """

    total: int
    available: int
    limit: str = ""


def count_training_bytes(spec: ModelSpec, recipe: Recipe, precision: str) -> int:
    """Count the bytes that training needs on all ranks of a copy together, without activations.

    Master weights of all tensors, a gradient of the trained ones and the optimizer's state, and
    below float32 the matrices in that type; those that are frozen are in that type alone, but for
    the ones that DoRA measures. All are float64 where the precision is, but for moments in
    bfloat16.
    """
    master = 2 * MASTER if precision == "float64" else MASTER
    table = list_parameters(spec)
    if recipe.lora:
        table = {**table, **list_adapter_tensors(spec, recipe.lora)}
    names = [*table, *list_trainable(spec, recipe)]
    kept = count_state_bytes(spec, recipe, master)
    copies = 2 * count_matmul_weights(spec) if precision in ("bfloat16", "float16") else 0
    whole = master * sum(table[name].size for name in names) + kept + copies
    return whole - _count_frozen_savings(spec, recipe) if precision == "bfloat16" else whole


def _count_frozen_savings(spec: ModelSpec, recipe: Recipe) -> int:
    """Count the bytes that frozen matrices save: each half its master, and a copy where it has one.

    Only those that multiply tokens are copied, the embeddings where the head is tied to them.
    """
    table, saved = list_parameters(spec), 0
    for name in list_frozen_matrices(spec, recipe):
        part = table[name].part
        if recipe.lora and recipe.lora.dora and part in ("attention", "ffn"):
            continue
        multiplies = part in ("attention", "ffn") or name == "lm_head.weight"
        is_tied = name == "model.embed_tokens.weight" and spec.embeddings.tie_weights
        saved += (4 if multiplies or is_tied else 2) * table[name].size
    return saved


def read_peak_memory(backend: Backend | None, device: str | None = None) -> int:
    """The most bytes that this process has had on a device.

    On a GPU those of its framework's arrays; on CPUs, and without a backend, all of the process's.
    """
    read = getattr(backend, "read_peak_memory", None)
    found: int | None = None
    if backend is not None and read is not None:
        found = read(device or backend.devices()[0])
    if found is not None:
        return found
    return read_process_peak()


@contextmanager
def explain_out_of_memory(
    doing: str, advice: str, backend: Backend | None, device: str | None = None
) -> Iterator[None]:
    """A block that raises OutOfMemory, in one sentence, where memory runs out in it.

    doing: as in 'training nano on cuda'. advice: what to choose instead.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, HermesError) or not is_out_of_memory(error):
            raise
        asked = describe_exhaustion(error)
        told = f" ({asked})" if asked else ""
        peak = format_with_unit(read_peak_memory(backend, device), "B")
        raise OutOfMemory(
            f"out of memory while {doing}{told}; its peak was {peak}; choose {advice}"
        ) from error


def read_host_memory() -> HostMemory | None:
    """Read the memory of this machine, and of the container or limits that this process is in.

    None where the system does not say.
    """
    found = _read_meminfo() or _read_pages()
    if found is None:
        return None
    total, available = found
    binding = ""
    groups = [("the limit of its control group", one) for one in _read_cgroups()]
    own = [(one.name, (one.limit, one.used)) for one in list_process_limits()]
    for what, (limit, used) in (*groups, *own):
        if 0 < limit < UNLIMITED:
            left = max(limit - used, 0)
            binding = what if left < available else binding
            total, available = min(total, limit), min(available, left)
    return HostMemory(total, available, binding)


def read_memory_limits() -> dict[str, int]:
    """Read the limits of this process's memory, the least of each kind, by what sets it."""
    found: dict[str, int] = {}
    groups = [limit for limit, _ in _read_cgroups() if 0 < limit < UNLIMITED]
    if groups:
        found["the control group"] = min(groups)
    return found | {one.name: one.limit for one in list_process_limits()}


def _read_meminfo() -> tuple[int, int] | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        pairs = [line.split(":", 1) for line in lines]
        kilobytes = {key: int(rest.split()[0]) for key, rest in pairs}
        return 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    except (OSError, ValueError, LookupError):
        return None


def _read_pages() -> tuple[int, int] | None:
    """Total memory as on macOS, where what is in use is compressed or given back."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
    return total, total


def _read_cgroups() -> list[tuple[int, int]]:
    """The limit and use of each control group that this process is in, outermost last."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in groups:
        _, kinds, name = line.split(":", 2)
        root = Path("/sys/fs/cgroup", "memory" if kinds else "")
        if kinds and "memory" not in kinds.split(","):
            continue
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if kinds
            else ("memory.max", "memory.current")
        )
        for folder in (Path(name), *Path(name).parents):
            limit, used = (_read_number(root / str(folder).lstrip("/") / one) for one in names)
            # Pages of files can be given back, and count as use all the same.
            cache = _read_statistic(root / str(folder).lstrip("/") / "memory.stat")
            found.append((limit, max(used - cache, 0)))
    return found


def _read_number(path: Path) -> int:
    """A number in a file; UNLIMITED where there is none."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return UNLIMITED


def _read_statistic(path: Path) -> int:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
