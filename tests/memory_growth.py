"""How much memory a process has grown by, where Linux tells it."""

from pathlib import Path

import pytest

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells the memory of a process"
)


def read_private_memory(pid="self"):
    """Bytes of memory that a process alone has, and that are no file's; swapped or not."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    sizes = dict(line.split(":", 1) for line in lines[1:])
    return sum(int(sizes[name].split()[0]) for name in ("Private_Dirty", "Swap")) * 1024
