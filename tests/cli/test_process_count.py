"""How many processes a command starts on a machine: not many times its cores."""

import pytest

from hermes.errors import HermesError
from hermes.model_info import machine
from hermes_cli.launch import launcher
from hermes_cli.main import run


@pytest.mark.parametrize("option", ["--num-processes", "--num-gpus"])
def test_many_times_the_cores_are_refused_before_anything_starts(monkeypatch, option):
    monkeypatch.setattr(machine, "count_cores", lambda: 2)
    gpus, processes = (1, 1000) if option == "--num-processes" else (1000, 1)
    with pytest.raises(HermesError) as refused:
        launcher._check_count(gpus, processes, force=False)
    assert str(refused.value) == (
        f"{option} 1000 on a machine of 2 cores: that many processes would take its memory and "
        "wait for each other; choose at most 16, or --force to try"
    )
    launcher._check_count(gpus, processes, force=True)
    launcher._check_count(1, 16, force=False)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_the_commands_that_start_processes_refuse_them(monkeypatch, capfd, tmp_path, backend):
    monkeypatch.setattr(machine, "count_cores", lambda: 2)
    text = tmp_path / "t.txt"
    text.write_text("a text of some words " * 200, encoding="utf-8")
    many = ["--num-processes", "1000", "--backend", backend]
    new = ["--model", "tiny", "--data", str(text), "--train-tokenizer"]
    assert run(["doctor", "--distributed", *many]) == 1
    assert "choose at most 16\n" in capfd.readouterr().err
    assert run(["train", *new, "--output", str(tmp_path / "run"), *many]) == 1
    assert "choose at most 16, or --force to try" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
