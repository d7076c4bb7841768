"""The examples of starting many machines: tried with several processes of this one."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hermes.checkpoint import verify
from hermes_cli.commands.train import train as command
from hermes_cli.launch.parent_watch import read_command, watch_parent
from tests.distributed.support import (
    COMMON,
    HERMES,
    WAIT,
    alive,
    end,
    free_ports,
    last_saved,
    lines,
    train,
    wait_for_checkpoint,
)
from tests.waiting import wait_until

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
RUN = [*COMMON[1:], "--max-steps", "6"]


@pytest.mark.parametrize("name", ["train.slurm", "torchrun.sh", "mlx.sh", "job.yaml"])
def test_the_options_of_an_example_are_those_of_hermes_train(name):
    text = (CLUSTER / name).read_text()
    _, found, after = text.partition("hermes train ")
    assert found
    asked = re.findall(r"--[a-z-]+", re.split(r"\n\n|\n *env:|\"\$@\"", after)[0])
    known = {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
    assert asked
    assert set(asked) <= known


def test_the_job_is_a_manifest_whose_exit_codes_are_ours():
    yaml = pytest.importorskip("yaml")
    volume, job = yaml.safe_load_all((CLUSTER / "job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1, 2, 70]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]


def together(corpus, *commands, codes=(0, 0)):
    """Run commands at once until all end; what each said."""
    started = []
    try:
        for arguments, environment in commands:
            started.append(
                subprocess.Popen(
                    list(map(str, arguments)),
                    cwd=corpus,
                    env=os.environ | {"OMP_NUM_THREADS": "1", **environment},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
            )
        said = [process.communicate(timeout=WAIT)[0] for process in started]
        assert [process.returncode for process in started] == [*codes][: len(started)], said
        return said
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check(corpus, tmp_path, said, backend):
    """One log, and the run of one process."""
    assert "".join(said).count("done: loss") == 1, said
    alone = ["--max-steps", 6, "--output", tmp_path / "alone", "--backend", backend]
    train(corpus, *alone, "--grad-accum", 2)
    one, other = lines(tmp_path / "alone"), lines(tmp_path / "run")
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-11)


@pytest.mark.long
def test_torchrun_on_two_machines(corpus, tmp_path):
    """Two agents on the loopback, with one process each."""
    (port,) = free_ports(1)
    where = {"NODES": "2", "GPUS": "1", "MEET": f"127.0.0.1:{port}", "RESTARTS": "0"}
    one = [CLUSTER / "torchrun.sh", *RUN, "--backend", "torch", "--output", tmp_path / "run"]
    check(corpus, tmp_path, together(corpus, (one, where), (one, where)), "torch")


@pytest.mark.long
def test_srun_on_two_machines(corpus, tmp_path):
    """Slurm's variables as they are on two nodes with one task each."""
    (port,) = free_ports(1)
    ranks = [
        {
            "SLURM_JOB_ID": "40123",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_STEP_NODELIST": "localhost,other",
            "SLURM_PROCID": str(rank),
            "SLURM_NODEID": str(rank),
            "SLURM_LOCALID": "0",
            "MASTER_PORT": str(port),
        }
        for rank in range(2)
    ]
    one = [*HERMES, "train", *RUN, "--backend", "torch", "--output", tmp_path / "run"]
    check(corpus, tmp_path, together(corpus, *((one, rank) for rank in ranks)), "torch")


@pytest.mark.long
def test_mlx_launch_on_two_machines(corpus, tmp_path):
    """Two hosts of a hosts file, both of which are this one."""
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2))
    shape = json.loads((CLUSTER / "hosts.json").read_text())
    assert all(host.keys() == {"ssh", "ips"} for host in shape)
    one = [CLUSTER / "mlx.sh", hosts, *RUN, "--output", tmp_path / "run"]
    check(corpus, tmp_path, together(corpus, (one, {"PYTHON": sys.executable})), "mlx")


def started_ranks(parent):
    """The ranks that a launcher runs, found by the words with which the page says to."""
    pattern = re.search(r"`pgrep -f -- '(.*?)'`", (CLUSTER / "README.md").read_text())[1]
    found = subprocess.run(
        ["pgrep", "-P", str(parent), "-f", "--", pattern], capture_output=True, text=True
    )
    return [int(word) for word in found.stdout.split()]


@pytest.fixture
def long_run(corpus, tmp_path, request):
    """A long run of two ranks by a launcher that has saved once, and the ranks' processes."""
    name, run = request.param, tmp_path / "run"
    (port,) = free_ports(1)
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2))
    where = {"NODES": "1", "GPUS": "2", "MEET": f"127.0.0.1:{port}", "RESTARTS": "2",
             "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}  # fmt: skip
    given = [hosts] if name == "mlx.sh" else []
    # --force: the disk has no room for all of its checkpoints, and need not.
    more = ["--max-steps", "100000", "--save-every", "5", "--force", "--output", run]
    process = subprocess.Popen(
        [*map(str, [CLUSTER / name, *given, *COMMON[1:], *more])],
        cwd=corpus,
        env=os.environ | where,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    pids = []
    try:
        wait_for_checkpoint(process, run)
        pids = started_ranks(process.pid)
        assert len(pids) == 2
        yield process, pids
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        end(process, pids)


@pytest.mark.long
@pytest.mark.parametrize("long_run", ["torchrun.sh", "mlx.sh"], indirect=True)
def test_a_signal_to_one_rank_stops_the_run_for_good(long_run, tmp_path):
    """torchrun starts nothing again, though it may."""
    process, pids = long_run
    os.kill(pids[1], signal.SIGTERM)
    said, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, said
    assert said.count("and saved; resume with: hermes train --resume") == 1, said
    assert f"stopped at step {last_saved(tmp_path / 'run')} of" in said


@pytest.mark.long
@pytest.mark.parametrize("long_run", ["torchrun.sh", "mlx.sh"], indirect=True)
def test_a_launcher_that_is_killed_leaves_no_orphans(long_run, tmp_path):
    process, pids = long_run
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)))
    run = tmp_path / "run"
    verify(run / f"step-{last_saved(run):08}")


def test_a_rank_that_somebody_started_by_hand_may_outlive_its_shell():
    said = []
    assert not watch_parent({"MLX_RANK": "0"}, said.append)
    assert not watch_parent({"RANK": "0", "WORLD_SIZE": "2"}, said.append)
    assert read_command(os.getpid()).split() == [
        word for part in Path("/proc/self/cmdline").read_text().split("\0") for word in part.split()
    ]
