"""Where MLX builds the kernels of mx.compile for a CPU, and where those are kept for later runs.

MLX builds all kernels in one folder of temporary files, which belongs to the first user on a
machine. Other users cannot write there, so nothing is compiled for them, and they run whatever its
owner put there. A file cut short by a power failure ends each later process by SIGBUS. So each
process builds in a folder of its own, which has links to this user's kept kernels; new kernels are
then added to those, each file whole.
"""

import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from hermes.errors import StorageError
from hermes.storage.durable import write_atomically
from hermes.storage.temporary import TemporaryFolder, find_temporary_folder

__all__ = ["build_kernels", "find_kept_kernels"]

KERNELS = "lib*.so"  # those that are being built have another name
_VERSION = version("mlx")


@contextmanager
def build_kernels(*, anew: bool = False) -> Iterator[None]:
    """Let MLX build kernels in a folder of its own, and keep them after the block.

    anew: build all of them, and replace those that were kept. Where no folder can be made, MLX
    builds in its usual one. On a GPU, where MLX writes no files, nothing is changed.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        yield
        return
    try:
        temporary = TemporaryFolder("kernels")
    except StorageError:
        yield
        return
    with temporary as name:
        folder = Path(name, "mlx", _VERSION, "cpu")
        kept = find_kept_kernels()
        with suppress(OSError):  # a kernel without a link is built
            folder.mkdir(parents=True)
            for kernel in () if anew or kept is None else sorted(kept.glob(KERNELS)):
                (folder / kernel.name).symlink_to(kernel)
        # For C alone, which MLX asks at each kernel: Python's own files go where they went.
        os.putenv("TMPDIR", name)
        try:
            yield
        finally:
            before = os.environ.get("TMPDIR")
            os.unsetenv("TMPDIR") if before is None else os.putenv("TMPDIR", before)
            if kept is not None:
                _keep(folder, kept)


def find_kept_kernels() -> Path | None:
    """The folder of this user's kernels; None where there is none that others cannot write to."""
    try:
        parent = find_temporary_folder() / f"hermes-mlx-{os.getuid()}"
        folder = parent / f"{_VERSION}-{platform.machine()}"
        # What is loaded is run, and anybody may make folders in that of temporary files.
        for one in (parent, folder):
            one.mkdir(mode=0o700, exist_ok=True)
            facts = one.lstat()
            is_own = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
            if not is_own or facts.st_mode & 0o022:
                return None
    except (OSError, StorageError):
        return None
    return folder


def _keep(folder: Path, kept: Path) -> None:
    """Add what was built in a folder to the kernels that are kept, each whole or not at all."""
    with suppress(OSError, StorageError):  # a full disk: the next run builds them again
        for kernel in sorted(folder.glob(KERNELS)):
            if not kernel.is_symlink():
                write_atomically(kept / kernel.name, kernel.read_bytes(), sync_name=False)
