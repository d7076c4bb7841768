"""`hermes checkpoint list|show|verify`: what people read, and what scripts test."""

import json

import pytest

from hermes.checkpoint import NewerFormat, find_newest, open_checkpoint
from hermes.errors import StorageError
from hermes.recipe import Recipe
from hermes_cli.main import run as command
from tests.checkpoint.support import resealed, save_at


@pytest.fixture
def run(tmp_path):
    for step in (1, 2, 3):
        save_at(tmp_path, step, metrics={"val_loss": 4.0 / step}, backend="torch", device="cpu")
    return tmp_path


def damage(run, step):
    file = run / f"step-{step:08d}" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_list_shows_each_checkpoint_oldest_first(run, capsys):
    assert command(["checkpoint", "list", str(run)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "tokens", "size", "written", "by", "metrics"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert lines[1].split()[1:] == ["20", lines[1].split()[2], "kB", "torch", "cpu", "val_loss=2"]


def test_list_names_what_is_torn(run, capsys):
    (run / "step-00000002" / "model.mal").write_text("")
    assert command(["checkpoint", "list", str(run)]) == 1
    line = capsys.readouterr().out.splitlines()[2]
    assert line.split()[:2] == ["2", "damaged:"]
    assert "model.mal is torn" in line


def test_list_and_verify_go_on_after_one_that_cannot_be_read(run, capsys, monkeypatch):
    """One of a later format and one that the system keeps from us: a row each, and the others."""

    def opened(path, **options):
        if path.name == "step-00000001":
            raise StorageError(f"cannot read {path}: permission denied")
        return open_checkpoint(path, **options)

    monkeypatch.setattr("hermes.checkpoint.find.open_checkpoint", opened)
    resealed(run / "step-00000003", version=7)
    last = f"Error: 2 of 3 checkpoints of {run} are damaged or cannot be read\n"
    for word, whole in (("list", "     2  "), ("verify", "step-00000002: whole, ")):
        assert command(["checkpoint", word, str(run)]) == 1
        out, err = capsys.readouterr()
        assert err == last
        first, second, third = out.splitlines()[-3:]
        assert f"not read: cannot read {run / 'step-00000001'}: permission denied" in first
        assert whole in second
        assert "has format version 7; this hermes reads up to 1, so update it" in third
    assert command(["checkpoint", "list", "--json", str(run)]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row.get("damaged") for row in rows] == [False, None, False]
    with pytest.raises(NewerFormat):
        find_newest(run)
    resealed(run / "step-00000003", version=1)
    assert find_newest(run).checkpoint.progress.step == 3


def test_list_and_show_speak_json(run, capsys):
    assert command(["checkpoint", "list", "--json", str(run)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert command(["checkpoint", "show", "--json", str(run)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == rows[2]
    assert facts["progress"]["recipe"]["lr"] == 3e-4
    assert facts["bytes"] == sum(facts["files"].values())


def test_show_tells_what_is_inside(run, capsys):
    assert command(["checkpoint", "show", str(run / "step-00000002")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{run / 'step-00000002'}: step 2 of run run-a, whole\n")
    for line in ("data       epoch 0, next sample 2", "metrics    val_loss 2", "  lr 0.0003"):
        assert line in out


def test_show_leaves_out_what_does_not_apply(run, capsys):
    """Settings of another optimizer, schedule or objective, and lists that are empty."""
    assert command(["checkpoint", "show", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in lines if line.startswith("  ")}
    of_adamw = {"name", "beta1", "beta2", "eps", "weight_decay", "moments"}
    assert {name for name in names if name.startswith("optimizer.")} == {
        "optimizer.safetensors",
        *(f"optimizer.{name}" for name in of_adamw),
    }
    assert {"lr", "schedule"} <= names
    assert not names & {"ema", "freeze", "groups", "min_lr_ratio", "preference.beta"}


def test_show_of_a_run_says_what_it_passed_over(run, capsys):
    damage(run, 3)
    assert command(["checkpoint", "show", str(run)]) == 0
    captured = capsys.readouterr()
    assert "passed over step-00000003: " in captured.err
    assert "step 2 of run run-a" in captured.out


def test_verify_ends_with_1_where_one_is_damaged(run, capsys):
    assert command(["checkpoint", "verify", str(run)]) == 0
    assert capsys.readouterr().out.count(": whole, ") == 3
    damage(run, 2)
    assert command(["checkpoint", "verify", str(run)]) == 1
    captured = capsys.readouterr()
    assert captured.out.count(": whole, ") == 2
    assert captured.err == f"Error: 1 of 3 checkpoints of {run} is damaged or cannot be read\n"
    assert command(["checkpoint", "verify", str(run / "step-00000002")]) == 1
    assert "was altered: its SHA-256 is" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["list", "show", "verify"])
def test_a_path_that_is_nothing_is_one_line(tmp_path, capsys, word):
    assert command(["checkpoint", word, str(tmp_path / "nowhere")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("precision", "fields", "shown", "hidden"),
    [
        ("float32", {}, ["epochs 1.0"], ["loss_scaling", "max_steps", "z_loss", "decay_"]),
        ("float16", {"max_steps": 9}, ["max_steps 9", "loss_scaling.growth 2.0"], ["epochs"]),
        ("float32", {"schedule": "wsd", "batch_size_schedule": "0:2,6:4"},
         ["decay_shape linear", "batch_size_schedule 0:2,6:4"], ["seq_len_schedule"]),
    ],
)  # fmt: skip
def test_show_has_what_applies(tmp_path, capsys, precision, fields, shown, hidden):
    recipe = Recipe(**{"schedule": "constant", **fields})
    save_at(tmp_path, 1, recipe=recipe, precision=precision)
    assert command(["checkpoint", "show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for line in shown:
        assert f"  {line}\n" in out
    for name in hidden:
        assert f"  {name}" not in out
