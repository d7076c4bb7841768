"""What a machine has and what is wrong with it, in sentences that say what to do."""

import dataclasses
import os
from pathlib import Path

import pytest

from hermes.interface import find_backend
from hermes.model_info.machine import Machine, examine_machine, format_machine, list_problems

GB = 10**9
SOUND = Machine(
    memory=16 * GB,
    available=8 * GB,
    swap=GB,
    limits={},
    disks={"/data": 100 * GB},
    blas={"numpy": "scipy-openblas 0.3", "torch": "mkl", "mlx": "torch's"},
    threads=8,
    quota=None,
    variables={},
    compiler="/usr/bin/c++",
    compiler_version="g++ 14",
)


def test_a_sound_machine_has_no_problems():
    assert list_problems(SOUND) == []
    assert list(format_machine(SOUND)) == [
        "memory: 8.00 GB of 16.0 GB available, 1.00 GB of swap",
        "disk free: 100 GB in /data",
        "BLAS: numpy scipy-openblas 0.3, torch mkl, mlx torch's",
        "cores: 8; OMP_NUM_THREADS is not set",
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"available": GB}, "only 1.00 GB of memory is available; end other programs, or raise"),
        ({"limits": {"ulimit -v": GB}}, "ulimit -v limits memory to 1.00 GB; raise it"),
        (
            {"disks": {"/data": GB}},
            "/data has 1.00 GB free, which checkpoints soon fill",
        ),
        ({"blas": {"mlx": "reference"}}, "mlx multiplies matrices with the reference BLAS, tens"),
        ({"blas": {"numpy": "blas 3.9"}}, "install a numpy built with OpenBLAS or MKL"),
        ({"variables": {"OMP_NUM_THREADS": "64"}}, "has 8 cores; set it to 8"),
        ({"variables": {"OMP_NUM_THREADS": "8"}, "quota": 2.0}, "has 2 cores; set it to 2"),
        ({"quota": 2.0}, "pays for 2 of 8 cores, and libraries start a thread for each; set OMP_"),
        ({"compiler": None}, "no C++ compiler, so torch does not compile on the CPU; install g++"),
        ({"compiler_version": None}, "/usr/bin/c++ does not run; on a Mac install the command"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(change, sentence):
    (found,) = list_problems(dataclasses.replace(SOUND, **change))
    assert sentence in found


def test_this_machine_is_examined():
    blas = {name: find_backend(name).describe_blas() for name in ("torch", "mlx")}
    found = examine_machine(blas)
    assert 0 < found.available <= found.memory
    assert found.blas["numpy"] != "unknown"
    assert found.blas["torch"].lower() in ("mkl", "open", "openblas", "accelerate", "generic")
    assert found.disks[os.getcwd()] > 0
    assert 1 <= found.threads <= (os.cpu_count() or 1)
    assert len(list(format_machine(found))) == 4


def test_the_limit_of_a_control_group_is_read(tmp_path, monkeypatch):
    """As in a container: of its group and those around it the least limit holds."""
    files = {
        "/proc/self/cgroup": "0::/pod/box\n",
        "/sys/fs/cgroup/pod/memory.max": str(3 * GB),
        "/sys/fs/cgroup/pod/box/memory.max": "max",
        "/sys/fs/cgroup/pod/cpu.max": "150000 100000",
        "/sys/fs/cgroup/pod/box/cpu.max": "max 100000",
    }

    def read(self, **_):
        if str(self) in files:
            return files[str(self)]
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(Path, "is_file", lambda self: str(self) in files)
    found = examine_machine()
    assert found.limits["the control group"] == 3 * GB
    assert found.quota == 1.5


def test_a_compiler_that_does_not_run_is_told(tmp_path, monkeypatch):
    (tmp_path / "c++").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = examine_machine()
    assert (found.compiler, found.compiler_version) == (str(tmp_path / "c++"), None)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert examine_machine().compiler is None
