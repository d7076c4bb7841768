"""The examples for clusters and rented machines: their shell, YAML and hermes command lines."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from hermes.training.finish_command import FinishCommand
from hermes_cli.main import hermes
from tests.packages import ROOT

FOLDER = ROOT / "examples" / "cluster"
SCRIPTS = sorted((*FOLDER.glob("*.sh"), *FOLDER.glob("*.slurm")))
# What SkyPilot's YAML may have: docs.skypilot.co, reference, SkyPilot YAML.
SKY_KEYS = {"name", "workdir", "num_nodes", "resources", "envs", "secrets", "volumes",
            "file_mounts", "setup", "run", "config"}  # fmt: skip
SKY_RESOURCES = {
    *("infra", "accelerators", "accelerator_args", "cpus", "memory", "instance_type", "use_spot"),
    *("disk_size", "disk_tier", "network_tier", "max_hourly_cost", "image_id", "ports", "labels"),
    *("autostop", "any_of", "ordered", "job_recovery"),
}


def read_shell():
    """Every piece of shell in the examples by its file."""
    found = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS}
    sky = yaml.safe_load((FOLDER / "sky.yaml").read_text(encoding="utf-8"))
    found["sky.yaml setup"], found["sky.yaml run"] = sky["setup"], sky["run"]
    _, job = yaml.safe_load_all((FOLDER / "job.yaml").read_text(encoding="utf-8"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["/bin/sh", "-c"]
    (found["job.yaml"],) = container["args"]
    return found


def list_commands():
    """Every `hermes train` command in the examples: (file, words after hermes)."""
    for name, text in read_shell().items():
        joined = re.sub(r"\\\n\s*", " ", text)
        for line in joined.splitlines():
            # Variables stand for numbers where they have a default that is one.
            plain = re.sub(r"\$\{\w+:-(\d+)\}|\$SKYPILOT_NUM_GPUS_PER_NODE", "8", line)
            if not line.startswith("#") and (at := re.search(r"\bhermes (?=train\b)", plain)):
                yield name, [word for word in shlex.split(plain[at.end() :]) if word != "$@"]


COMMANDS = list(list_commands())


@pytest.mark.parametrize("name", read_shell())
def test_the_shell_is_shell(name):
    done = subprocess.run(["bash", "-n"], input=read_shell()[name], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_example_trains():
    files = {name.split()[0] for name, _ in COMMANDS}
    assert files == {"job.yaml", "lambda.sh", "mlx.sh", "runpod.sh", "sky.yaml", "torchrun.sh",
                     "train.slurm"}  # fmt: skip


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_the_command_lines_are_understood(name, words):
    root = click.Context(hermes)
    command = hermes.get_command(root, words[0])
    params = command.make_context("train", words[1:], parent=root).params
    assert params["resume"]
    needs_no_word = name in ("job.yaml", "mlx.sh", "torchrun.sh")
    assert bool(params["on_finish"]) != needs_no_word
    done = subprocess.run(
        ["sh", "-n"], input=params["on_finish"], text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def note_calls(tmp_path, monkeypatch):
    """Programs that note their arguments: a function that reads them."""

    def make(*programs):
        for program in programs:
            path = tmp_path / program
            path.write_text(f'#!/bin/sh\nfor one in "$@"; do echo "$one"; done > {path}.txt\n')
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return lambda program: Path(f"{tmp_path / program}.txt").read_text().splitlines()

    return make


def finish(name, run, *, fails):
    """Run what an example runs at the end of a run."""
    words = dict(COMMANDS)[name]
    command = words[words.index("--on-finish") + 1]
    told = []
    try:
        with FinishCommand(command, run, told.append):
            if fails:
                raise RuntimeError("no more memory")
    except RuntimeError:
        pass
    assert not any("Warning" in line for line in told)


@pytest.mark.parametrize("fails", [False, True])
def test_a_pod_is_removed(note_calls, tmp_path, monkeypatch, fails):
    read = note_calls("runpodctl")
    monkeypatch.setenv("RUNPOD_POD_ID", "abc123")
    finish("runpod.sh", tmp_path, fails=fails)
    assert read("runpodctl") == ["remove", "pod", "abc123"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_instance_is_terminated(note_calls, tmp_path, monkeypatch, fails):
    read = note_calls("curl")
    monkeypatch.setenv("LAMBDA_API_KEY", "key")
    monkeypatch.setenv("LAMBDA_INSTANCE_ID", "0920582c")
    monkeypatch.setenv("LAMBDA_API", "https://cloud.lambda.ai/api/v1")
    finish("lambda.sh", tmp_path, fails=fails)
    words = read("curl")
    assert words[-1] == "https://cloud.lambda.ai/api/v1/instance-operations/terminate"
    assert json.loads(words[words.index("--json") + 1]) == {"instance_ids": ["0920582c"]}
    assert "Authorization: Bearer key" in words


def test_slurm_notes_how_a_run_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    finish("train.slurm", tmp_path, fails=True)
    assert (tmp_path / "runs.txt").read_text() == "17 failed no more memory\n"


def test_skypilots_file_has_its_keys():
    found = yaml.safe_load((FOLDER / "sky.yaml").read_text(encoding="utf-8"))
    assert set(found) <= SKY_KEYS
    assert set(found["resources"]) <= SKY_RESOURCES
    assert re.fullmatch(r"\w+:\d+", found["resources"]["accelerators"])
    for mount in found["file_mounts"].values():
        assert set(mount) == {"source", "mode"}
        assert mount["mode"] in ("MOUNT", "COPY", "MOUNT_CACHED")


def test_the_jobs_of_kubernetes_have_their_keys():
    claim, job = yaml.safe_load_all((FOLDER / "job.yaml").read_text(encoding="utf-8"))
    assert (claim["kind"], job["kind"]) == ("PersistentVolumeClaim", "Job")
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in spec["volumes"]}


def test_the_image_has_a_known_instruction_on_every_line():
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    assert lines[0][0] == "FROM"
    assert {word for word, _ in lines} <= {"FROM", "RUN", "COPY", "WORKDIR", "ENTRYPOINT", "CMD"}
    given = dict(lines)
    assert json.loads(given["ENTRYPOINT"]) == ["hermes"]
    assert json.loads(given["CMD"])[0] in hermes.list_commands(click.Context(hermes))
    for word, rest in lines:
        if word == "RUN":
            done = subprocess.run(["sh", "-n"], input=rest, text=True, capture_output=True)
            assert (done.returncode, done.stderr) == (0, "")
    (extra,) = re.findall(r"/src\[(\w+)\]", text)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
