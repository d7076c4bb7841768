"""What this machine gives a run: memory, disks, BLAS, threads and compiler, and what is wrong."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hermes.errors import StorageError
from hermes.formatting import format_count, format_with_unit
from hermes.model_info.memory import read_host_memory, read_memory_limits
from hermes.storage.space import count_free_bytes
from hermes.storage.temporary import find_temporary_folder

__all__ = ["Machine", "count_cores", "examine_machine", "format_machine", "list_problems"]

LEAST_MEMORY = 2 * 10**9
LEAST_DISK = 5 * 10**9
COMPILERS = ("c++", "g++", "clang++")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Machine:
    """What a process of this machine has; bytes, and None for what the system does not say.

    memory, available: of the machine or its limit. swap: what is free of it. limits: of memory, by
    what sets them. disks: free bytes by folder. blas: by the library that uses it. threads: cores
    that this process may use; quota: cores that its control group pays for. variables: of the
    environment, those that set the number of threads. compiler: its path and first line of version.
    """

    memory: int | None
    available: int | None
    swap: int | None
    limits: Mapping[str, int]
    disks: Mapping[str, int]
    blas: Mapping[str, str]
    threads: int
    quota: float | None
    variables: Mapping[str, str]
    compiler: str | None
    compiler_version: str | None


def examine_machine(blas: Mapping[str, str] = {}) -> Machine:
    """Examine this machine. blas: of backends, which is added to NumPy's."""
    memory = read_host_memory()
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    return Machine(
        memory=None if memory is None else memory.total,
        available=None if memory is None else memory.available,
        swap=_read_swap(),
        limits=read_memory_limits(),
        disks=_list_disks(),
        blas={"numpy": _describe_numpy_blas(), **blas},
        threads=count_cores(),
        quota=_read_quota(),
        variables={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        compiler=compiler,
        compiler_version=compiler and _read_version(compiler),
    )


def _read_swap() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("SwapFree:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def _list_disks() -> dict[str, int]:
    """The folders that runs write to, and what is free there."""
    folders = (os.getcwd, find_temporary_folder, lambda: os.path.expanduser("~"))
    free: dict[str, int] = {}
    for find in folders:
        # One that is deleted, or that there is none of, is left out.
        with suppress(StorageError, OSError):
            folder = str(find())
            if (count := count_free_bytes(Path(folder))) is not None:
                free[folder] = count
    return free


def _describe_numpy_blas() -> str:
    config: Any = np.show_config(mode="dicts")
    found = config.get("Build Dependencies", {}).get("blas", {})
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def count_cores() -> int:
    """Cores that this process may use: of its affinity, where the system has that."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_quota() -> float | None:
    """Cores that the control group pays for, the least of it and those around it; None for all."""
    found: list[float] = []
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 2)[2] for line in groups if line.startswith("0::"))
        for folder in (Path(name), *Path(name).parents):
            file = Path("/sys/fs/cgroup") / str(folder).lstrip("/") / "cpu.max"
            if file.is_file():
                most, period = file.read_text(encoding="ascii").split()
                found += [] if most == "max" else [int(most) / int(period)]
    except (OSError, ValueError, StopIteration):
        pass
    return min(found, default=None)


def _read_version(compiler: str) -> str | None:
    """The first line of `--version`; None where it does not run, as Apple's stub without Xcode."""
    try:
        done = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return (done.stdout.splitlines() or [""])[0].strip() or None


def list_problems(machine: Machine) -> list[str]:
    """What is wrong for a run, each in a sentence with what to do."""
    return list(_find_problems(machine))


def _find_problems(machine: Machine) -> Iterator[str]:
    if machine.available is not None and machine.available < LEAST_MEMORY:
        yield (
            f"only {format_with_unit(machine.available, 'B')} of memory is available; end other "
            "programs, or raise the limit of this container"
        )
    for name, limit in machine.limits.items():
        if machine.memory is not None and limit < LEAST_MEMORY:
            yield f"{name} limits memory to {format_with_unit(limit, 'B')}; raise it"
    for folder, free in machine.disks.items():
        if free < LEAST_DISK:
            yield (
                f"{folder} has {format_with_unit(free, 'B')} free, which checkpoints soon fill; "
                "make room, or choose --output on another disk"
            )
    for library, name in machine.blas.items():
        if name.startswith(("blas", "netlib", "reference")):
            fix = (
                "install torch beside it, whose library it borrows"
                if library == "mlx"
                else f"install a {library} built with OpenBLAS or MKL"
            )
            yield (
                f"{library} multiplies matrices with the {name} BLAS, tens of times slower than "
                f"others; {fix}"
            )
    usable = min(machine.threads, machine.quota or machine.threads)
    for variable, value in machine.variables.items():
        if value.isdecimal() and int(value) > usable:
            yield (
                f"{variable} is {value}, and this process has {usable:g} "
                f"core{'s' * (usable > 1)}; set it to "
                f"{max(1, int(usable))}"
            )
    if machine.quota and machine.quota < machine.threads and not machine.variables:
        yield (
            f"the control group pays for {machine.quota:g} of "
            f"{format_count(machine.threads, 'cores')}, and "
            f"libraries start a thread for each; set OMP_NUM_THREADS={max(1, int(machine.quota))}"
        )
    if machine.compiler is None:
        yield "there is no C++ compiler, so torch does not compile on the CPU; install g++ or clang"
    elif machine.compiler_version is None:
        yield (
            f"the C++ compiler {machine.compiler} does not run; on a Mac install the command line "
            "tools with xcode-select --install"
        )


def format_machine(machine: Machine) -> Iterator[str]:
    """Lines for people."""
    if machine.memory is not None and machine.available is not None:
        total, rest = (format_with_unit(n, "B") for n in (machine.memory, machine.available))
        swap = "" if machine.swap is None else f", {format_with_unit(machine.swap, 'B')} of swap"
        limits = "".join(
            f"; {name} limits it to {format_with_unit(limit, 'B')}"
            for name, limit in machine.limits.items()
        )
        yield f"memory: {rest} of {total} available{swap}{limits}"
    free = (f"{format_with_unit(n, 'B')} in {folder}" for folder, n in machine.disks.items())
    yield f"disk free: {', '.join(free)}"
    yield f"BLAS: {', '.join(f'{library} {name}' for library, name in machine.blas.items())}"
    quota = f" (control group: {machine.quota:g})" if machine.quota else ""
    set_to = ", ".join(f"{name}={value}" for name, value in machine.variables.items())
    yield f"cores: {machine.threads}{quota}; {set_to or 'OMP_NUM_THREADS is not set'}"
