"""Which launcher started a process, and what it said: read from variables alone."""

import json

import pytest

from hermes.distributed.environment import read_rank_info
from hermes.distributed.join import find_rank_info
from hermes.distributed.process_group import RankInfo
from hermes.errors import HermesError
from hermes_cli.commands.train import train as command
from hermes_cli.launch import launcher
from hermes_cli.launch.join import find_launched_backend
from hermes_cli.launch.signals import Signals
from hermes_cli.main import Call, run
from hermes_torch.process_group import count_cores
from tests.distributed.support import MLX, TORCH


@pytest.mark.parametrize(
    ("variables", "rank_info"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
         RankInfo(1, 4, 1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "7", "SLURM_LOCALID": "1",
          "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "4,3", "SLURM_JOB_ID": "40123",
          "SLURM_STEP_NODELIST": "node[03-04],other"},
         RankInfo(5, 7, 1, 3, "node03:20123")),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3",
          "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_JOB_ID": "7",
          "SLURM_STEP_NODELIST": "a1,a2", "MASTER_PORT": "29500"},
         RankInfo(3, 8, 3, 4, "a1:29500")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0",
          "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_JOB_ID": "7",
          "SLURM_STEP_NODELIST": "rack[1-2]-gpu,other"},
         RankInfo(0, 2, rendezvous="rack1-gpu:20007")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0",
          "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_JOB_ID": "7",
          "SLURM_STEP_NODELIST": "r[02,04-07]n[008-010].a"},
         RankInfo(0, 2, rendezvous="r02n008.a:20007")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0",
          "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_JOB_ID": "7",
          "SLURM_STEP_NODELIST": "gpu1"}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
          "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
          "MASTER_ADDR": "a1", "MASTER_PORT": "5"}, RankInfo(1, 2, rendezvous="a1:5")),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
          "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, RankInfo(1, 2)),
    ],
)  # fmt: skip
def test_a_process_finds_its_place_in_its_launchers_variables(variables, rank_info):
    assert read_rank_info(variables) == rank_info


def test_a_ring_of_mlx_counts_the_processes_of_its_own_machine(tmp_path):
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([["10.0.0.1:5"], ["10.0.0.2:5"], ["10.0.0.2:6"]]))
    assert read_rank_info({"MLX_RANK": "2", "MLX_HOSTFILE": str(hosts)}) == RankInfo(2, 3, 1, 2)


def test_variables_that_make_no_sense_are_refused():
    with pytest.raises(HermesError, match=r"^the launcher's variables cannot be read: "):
        read_rank_info({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    with pytest.raises(HermesError, match=r"^rank 2 of 2 processes"):
        read_rank_info({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    with pytest.raises(HermesError, match=r"^SLURM_NODEID is 5, and .* has 2 nodes; nodes count"):
        read_rank_info(
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0",
             "SLURM_NODEID": "5", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_JOB_ID": "7",
             "SLURM_STEP_NODELIST": "a,b"}
        )  # fmt: skip


def test_a_ring_of_mlx_whose_hosts_cannot_be_read_is_refused_with_the_files_name(tmp_path):
    hosts = tmp_path / "hosts.json"
    with pytest.raises(HermesError, match=r"^MLX_HOSTFILE names '.*hosts.json', .*no such file"):
        read_rank_info({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)})
    hosts.write_text("{")
    with pytest.raises(HermesError, match=r"^MLX_HOSTFILE names '.*hosts.json', .*Expecting"):
        read_rank_info({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)})
    hosts.write_text('[["10.0.0.1:5"], ["10.0.0.2:5"]]')
    with pytest.raises(HermesError, match=r"^rank 5 of 2 processes"):
        read_rank_info({"MLX_RANK": "5", "MLX_HOSTFILE": str(hosts)})
    hosts.write_text('[["10.0.0.1:5"], []]')
    with pytest.raises(HermesError, match=r"^the launcher's variables cannot be read: IndexError"):
        read_rank_info({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)})
    hosts.write_text("")
    assert read_rank_info({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}) is None


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
MLX_LAUNCH = {"MLX_RANK": "0", "MLX_WORLD_SIZE": "2"}


def test_a_launcher_says_which_backend_is_meant():
    assert find_launched_backend("auto", MLX_LAUNCH).name == "mlx"
    assert find_launched_backend("auto", TORCHRUN).name == "torch"
    assert find_launched_backend("torch", {**MLX_LAUNCH, "MLX_WORLD_SIZE": "1"}).name == "torch"
    with pytest.raises(HermesError, match=r"^mlx.launch starts processes of mlx, and --backend is"):
        find_launched_backend("torch", MLX_LAUNCH)
    with pytest.raises(HermesError, match=r"^torchrun starts processes of torch, and --backend is"):
        find_launched_backend("mlx", TORCHRUN)
    mpirun = {
        f"OMPI_COMM_WORLD_{name[6:] if 'WORLD_S' in name else name}": number
        for name, number in TORCHRUN.items()
        if name != "LOCAL_WORLD_SIZE"
    }
    mpirun["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2"
    assert find_launched_backend("auto", mpirun).name == "mlx"
    with pytest.raises(HermesError, match=r"; set MASTER_ADDR and MASTER_PORT, or start"):
        find_launched_backend("torch", mpirun)
    met = {**mpirun, "MASTER_ADDR": "a", "MASTER_PORT": "5"}
    assert find_launched_backend("torch", met).name == "torch"


SLURM = {"SLURM_STEP_NODELIST": "a", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
         "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}  # fmt: skip


@pytest.mark.parametrize("how", [MLX, TORCH], ids=str)
def test_a_shell_in_a_step_of_slurm_may_start_processes(monkeypatch, how):
    """Of a step with one task, as `srun --pty bash` has it; one with more has its processes."""
    asked = {
        "backend": how[1], "device": "cpu", "data": ("text.txt",), "max_restarts": 0,
        "output": None, "peer_timeout": 45.0, "num_gpus": 1, "num_processes": 1, "force": False,
        how[2].lstrip("-").replace("-", "_"): 2,
    }  # fmt: skip
    started = []
    monkeypatch.setattr(launcher, "supervise", lambda *_, **__: started.append("them"))
    context = command.make_context("train", [], obj=Call((), print, run))
    signals = Signals()

    def starts(tasks, **others):
        for name, value in {**SLURM, "SLURM_STEP_NUM_TASKS": str(tasks),
                            "SLURM_STEP_TASKS_PER_NODE": str(tasks), **others}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        return launcher.start_workers(context, asked, signals)

    assert starts(1)
    assert started == ["them"]
    with pytest.raises(
        HermesError, match=r"^--num-\w+ 2, but a launcher started 4 processes, 4 on"
    ):
        starts(4)
    assert not starts(2)  # as many as were asked for
    assert not starts(1, HERMES_LAUNCHED="1")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, 1e9])
def test_a_patience_that_no_clock_knows_is_refused_before_anything_starts(seconds):
    asked = {"num_gpus": 2, "num_processes": 1, "max_restarts": 0, "peer_timeout": seconds}
    with pytest.raises(
        HermesError, match=r"--peer-timeout must be above 0 and at most 1,000,000 seconds"
    ):
        launcher.start_workers(None, asked, None)


def test_all_processors_count_where_the_system_knows_no_fewer(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert count_cores() == 12


def test_a_timeout_that_was_given_bounds_what_may_be_work_and_the_default_does_not():
    given, plain = find_rank_info(TORCHRUN, 45.0), find_rank_info(TORCHRUN, None)
    assert (given.timeout, given.work_timeout, given.first_timeout) == (45.0, 45.0, 600.0)
    assert (plain.timeout, plain.work_timeout, plain.first_timeout) == (45.0, 600.0, 600.0)
    assert find_rank_info({}, None) is None
