"""`hermes doctor --distributed`: what can be wrong is found, and said with what to do."""

import json
import os
import re
import subprocess
from types import SimpleNamespace

import pytest

from hermes.errors import HermesError
from hermes_cli.commands import doctor_distributed
from tests.distributed.support import HERMES, MLX, TORCH, WAIT, Said


class InTurn(Said):
    """The others' answers are another at each call; the first of each is this process's place."""

    def __init__(self, *turns):
        super().__init__(*turns[0][1:])
        self._turns = [turn[1:] for turn in turns]

    def all_gather_text(self, text):
        return [text, *self._turns.pop(0)]


def test_other_versions_are_named():
    mine = json.loads(
        doctor_distributed._check_software(Said("{}"), {"torch": "2.13"})[0].removeprefix(
            "software "
        )
    )
    assert mine.keys() == {"hermes", "python", "torch"}
    other = json.dumps(mine | {"torch": "2.12"})
    assert doctor_distributed._check_software(Said(json.dumps(mine)), {"torch": "2.13"})[1] == []
    assert doctor_distributed._check_software(Said(other), {"torch": "2.13"})[1] == [
        f"rank 1 has {other}, rank 0 {json.dumps(mine)}; install the same versions on all"
    ]


def test_clocks_that_are_apart_are_named(monkeypatch):
    monkeypatch.setattr(doctor_distributed, "time", SimpleNamespace(time=lambda: 1e9))
    assert doctor_distributed._check_clocks(Said(repr(1e9)))[1] == []
    assert doctor_distributed._check_clocks(Said(repr(1e9 + 100)))[1] == [
        "clocks are 100 s apart; synchronize them with NTP"
    ]


def test_a_process_that_looks_late_at_its_clock_has_no_wrong_one(monkeypatch):
    monkeypatch.setattr(doctor_distributed, "time", SimpleNamespace(time=lambda: 1e9))
    late = InTurn(["", repr(1e9 + 5)], ["", repr(1e9 + 0.25)], ["", repr(1e9 + 9)])
    assert doctor_distributed._check_clocks(late) == ("clocks within 0.25 s", [])


def test_a_wrong_sum_is_named():
    class Wrong(Said):
        def time_all_reduce(self, count):
            return 0.1, False

    assert doctor_distributed._check_sum(Said("0"))[1] == []
    wanted = ["a sum over all processes is wrong; set NCCL_DEBUG=INFO and look"]
    assert doctor_distributed._check_sum(Wrong("0"))[1] == wanted


def test_other_data_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    mine = doctor_distributed._hash_files([str(path)])
    assert mine.endswith(" (1 file, 3 bytes)")
    whole = doctor_distributed._check_data(InTurn(["", "", ""], ["", mine, ""]), [str(path)])
    assert whole == (f"data {mine} on 2 machines", [])
    assert doctor_distributed._check_data(InTurn(["", ""], ["", "x"]), [str(path)])[1] == [
        f"rank 1 reads data x, rank 0 {mine}; copy the same files to all machines"
    ]


def test_data_that_is_missing_is_said_once_for_each_rank_that_misses_it(tmp_path):
    missing = str(tmp_path / "gone.txt")
    why = f"{missing}: no such file; check the name"
    assert doctor_distributed._check_data(InTurn(["", why], ["", ""]), [missing])[1] == [
        f"rank 0 cannot read the data: {why}",
        f"rank 1 cannot read the data: {why}",
    ]
    assert doctor_distributed._check_data(InTurn(["", ""], ["", "x"]), [missing])[1] == [
        f"rank 0 cannot read the data: {why}"
    ]


def test_the_report_can_be_read_by_a_program(capsys):
    found = [("clocks within 0.00 s", []), ("folder", ["rank 1 is blind", "rank 2 is blind"])]
    with pytest.raises(HermesError, match=r"^1 of 2 checks failed$"):
        doctor_distributed._report(Said(""), found, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "good": False,
        "checks": [
            {"looked_at": "clocks within 0.00 s", "wrong": []},
            {"looked_at": "folder", "wrong": ["rank 1 is blind", "rank 2 is blind"]},
        ],
    }


def test_gpus_that_cannot_read_each_other_are_named_with_what_to_do(monkeypatch):
    torch = pytest.importorskip("torch")
    from hermes_torch.process_group import ProcessGroup

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda here, there: there == 2)
    two = object.__new__(ProcessGroup)
    two.device = torch.device("cuda:0")
    (said,) = two.diagnostics()
    assert said.startswith("GPU 0 cannot read the memory of GPU 1; ")
    assert "NCCL_P2P_DISABLE=1" in said
    assert doctor_distributed._check_gpus(Said(said))[1] == [said]


def test_a_folder_that_others_do_not_see_is_named_with_what_to_do(tmp_path):
    _, problems = doctor_distributed._check_shared_folder(Said("missing"), tmp_path / "run")
    assert len(problems) == 1
    assert problems[0].startswith("rank 1 does not see what rank 0 writes into ")
    assert doctor_distributed._check_shared_folder(Said(""), tmp_path / "run")[1] == []
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("how", [["--num-gpus", "2"], ["--num-processes", "2"]], ids=str)
def test_the_doctor_sees_that_processes_sum_rightly(tmp_path, how):
    backend = "torch" if "--num-gpus" in how else "mlx"
    command = [*HERMES, "doctor", "--distributed", *how, "--backend", backend, "--device", "cpu"]
    done = subprocess.run(
        [*command, "--output", tmp_path], capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("good: ")]) == 5
    assert "wrong" not in done.stdout


@pytest.mark.parametrize("how", [MLX, pytest.param(TORCH, marks=pytest.mark.long)], ids=str)
def test_what_one_rank_finds_wrong_all_end_with_and_one_says(tmp_path, monkeypatch, how):
    """Rank 1's clock is two minutes slow, and it reads other data."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, time\n"
        "plain, mine = time.time, lambda: os.environ.get('RANK', os.environ.get('MLX_RANK'))\n"
        "time.time = lambda: plain() - (120 if mine() == '1' else 0)\n"
        "from hermes_cli.commands import doctor_distributed\n"
        "real = doctor_distributed._hash_files\n"
        "doctor_distributed._hash_files = lambda data: 'other' if mine() == '1' else real(data)\n"
        "import hermes.distributed.join as join\n"
        "found = join.read_rank_info\n"
        "import dataclasses\n"
        "join.read_rank_info = doctor_distributed.read_rank_info = lambda e: found(e) and "
        "dataclasses.replace(found(e), local_rank=0, local_world_size=1)\n"
    )
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    (tmp_path / "a.txt").write_text("abc")
    done = subprocess.run(
        [*HERMES, "doctor", "--distributed", *how, "--device", "cpu", "--data", tmp_path / "a.txt"],
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 1, done.stderr
    # 120, and what passes between the looks of two processes at their clocks.
    assert re.search(
        r"wrong: clocks are 1[0-4]\d s apart; synchronize them with NTP\n", done.stdout
    )
    assert "wrong: rank 1 reads data other, rank 0 " in done.stdout
    assert done.stderr.endswith("Error: 2 of 5 checks failed\n")
    assert done.stderr.count("Error: ") == 1
