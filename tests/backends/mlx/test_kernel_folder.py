"""Kernels that MLX builds for a CPU are kept whole, for all runs of a user, and for nobody else."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import pytest

from hermes_mlx.compiler import compile_function
from hermes_mlx.kernel_folder import build_kernels, find_kept_kernels

COMPUTES = """
import mlx.core as mx
from hermes_mlx.compiler import compile_function
mx.set_default_device(mx.cpu)
print(compile_function(lambda x: mx.exp(x) * x + 0.5)(mx.zeros(3)).tolist())
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, and the default device a CPU."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield tmp_path
    mx.set_default_device(before)


def compute(temporary, **environment):
    """Evaluate a compiled function in a process of its own. -> what it says beside the result"""
    found = subprocess.run(
        [sys.executable, "-c", COMPUTES],
        env=os.environ | {"TMPDIR": str(temporary)} | environment,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout) == (0, "[0.5, 0.5, 0.5]\n"), found.stderr
    return found.stderr


def list_kernels(temporary):
    """Those that are kept."""
    return sorted(temporary.glob("hermes-mlx-*/*/*.so"))


def test_half_a_kernel_in_the_folder_of_all_users_is_not_loaded(temporary):
    """MLX alone would end by SIGBUS: a page of the file that is mapped is not there."""
    compute(temporary)
    folder = temporary / "mlx" / version("mlx") / "cpu"
    folder.mkdir(parents=True, exist_ok=True)
    kernels = list_kernels(temporary) or [*folder.glob("*.so")]
    assert kernels
    for kernel in kernels:
        half = kernel.read_bytes()[:1000]
        (folder / kernel.name).unlink(missing_ok=True)
        (folder / kernel.name).write_bytes(half)
    assert compute(temporary) == ""


def test_a_second_run_needs_no_compiler_and_leaves_nothing_else(temporary):
    compute(temporary)
    (kernel,) = list_kernels(temporary)
    assert [one.name for one in temporary.iterdir()] == [kernel.parent.parent.name]
    (temporary / "bin").mkdir()
    (temporary / "bin" / "g++").write_text('#!/bin/sh\ntest "$1" = --version\n')
    (temporary / "bin" / "g++").chmod(0o755)
    path = f"{temporary / 'bin'}{os.pathsep}{os.environ['PATH']}"
    assert compute(temporary, PATH=path) == ""
    kernel.unlink()
    assert "mx.compile failed" in compute(temporary, PATH=path)


def test_a_damaged_kernel_is_built_anew_without_a_word(temporary):
    compute(temporary)
    (kernel,) = list_kernels(temporary)
    whole = kernel.stat().st_size
    kernel.write_bytes(b"")
    assert compute(temporary) == ""
    assert kernel.stat().st_size == whole


def test_where_nothing_can_be_kept_a_run_compiles_all_the_same(temporary):
    (temporary / f"hermes-mlx-{os.getuid()}").write_text("in the way")
    assert compute(temporary) == ""
    assert list_kernels(temporary) == []


def test_a_folder_that_others_can_write_to_is_not_used(temporary):
    mask = os.umask(0)
    folder = find_kept_kernels()
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o777)
    assert find_kept_kernels() is None
    folder.parent.chmod(0o700)
    shutil.move(folder, temporary / "elsewhere")
    folder.symlink_to(temporary / "elsewhere")
    assert find_kept_kernels() is None


def read_own_variable():
    """TMPDIR as C has it, which a new process gets."""
    command = ["sh", "-c", 'echo "${TMPDIR-none}"']
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_was_built_before_a_compiler_failed_is_kept(temporary):
    before = read_own_variable()

    def build():
        with build_kernels():
            folder = Path(read_own_variable(), "mlx", version("mlx"), "cpu")
            for name in ("libone.so", "tmp_half.so", "libhalf.cpp"):
                (folder / name).write_text(name)
            raise RuntimeError("the compiler was killed")

    with pytest.raises(RuntimeError, match="was killed"):
        build()
    assert [kernel.name for kernel in list_kernels(temporary)] == ["libone.so"]
    assert read_own_variable() == before


def test_another_users_folder_is_none_to_build_in(temporary):
    """MLX alone would compute without compiling, and warn."""
    (temporary / "mlx").write_text("as good as one that only its owner writes to")
    assert compute(temporary) == ""
    assert len(list_kernels(temporary)) == 1


def test_on_a_gpu_nothing_is_built_in_files(temporary, monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    run = compile_function(lambda x: x)
    monkeypatch.setattr(mx, "eval", lambda *trees: None)
    with mx.stream(mx.cpu):
        run(mx.zeros(3))
    assert [*temporary.iterdir()] == []
