"""Updates that take as many samples among other processes than those that a run was made by."""

from dataclasses import replace
from pathlib import Path

import click
import pytest

from hermes.errors import HermesError
from hermes.recipe import Recipe
from hermes.training.batch_split import redistribute_batch
from hermes.training.events import MEASURED
from hermes.training.metrics_file import read_metrics
from hermes_cli.commands.train import train
from hermes_cli.main import Call, run
from hermes_cli.training.run_training import format_resume_command
from tests.cli.support import TRAIN, refuses

RECIPE = replace(Recipe(), batch_size=6, grad_accum=2)


@pytest.mark.parametrize(
    ("before", "now", "accum"), [(1, 2, 1), (2, 1, 4), (3, 2, 3), (2, 4, 1), (2, 2, 2)]
)
def test_micro_batches_are_shared_anew(before, now, accum):
    assert redistribute_batch(RECIPE, before, now) == replace(RECIPE, grad_accum=accum)


def test_what_cannot_be_shared_is_refused_with_what_can():
    with pytest.raises(HermesError) as refusal:
        redistribute_batch(RECIPE, 1, 3)
    assert str(refusal.value) == (
        "a step takes 12 samples (batch_size 6 x grad_accum 2), which 3 processes cannot share "
        "in parts of 6; give --batch-size and --grad-accum whose product is 4"
    )
    with pytest.raises(HermesError, match=r"start a number of processes that divides 12$"):
        redistribute_batch(RECIPE, 1, 5)


def test_a_run_file_of_several_processes_is_the_same_run_on_one(here, call):
    """Its batch options are of one process; either given anew is of these processes."""
    assert call(*TRAIN, "--max-steps", 2, "--grad-accum", 2)[0] == 0
    made = Path("run/run.yaml")
    assert "processes: 1  # each takes batch_size x grad_accum; not an option\n" in made.read_text()
    two = made.read_text().replace("grad_accum: 2", "grad_accum: 1")
    Path("two.yaml").write_text(two.replace("processes: 1", "processes: 2"))
    code, _, err = call("train", "--config", "two.yaml", "--output", "again")
    assert code == 0, err
    assert "grad_accum is 2 on 1 process, where it was 1 on 2: a step takes 8 samples" in err
    plain = [[{k: v for k, v in line.items() if k not in MEASURED}
              for line in read_metrics(Path(run))] for run in ("run", "again")]  # fmt: skip
    assert plain[0] == plain[1]
    code, _, err = call("train", "--config", "two.yaml", "--output", "b", "--batch-size", 2)
    assert code == 0, err
    assert "2 steps of 2 sequences" in err
    Path("two.yaml").write_text(two.replace("processes: 1", "processes: none"))
    refuses(call, 1, "two.yaml: processes is 'none'; expected a whole number above 0",
            "train", "--config", "two.yaml", "--output", "c")  # fmt: skip


def test_the_command_that_goes_on_repeats_what_no_run_file_keeps(monkeypatch):
    given = ["--num-processes", "2", "--backend", "mlx", "--no-compile", "--lr", "0.1", "--device",
             "cpu", "--push-every-save"]  # fmt: skip
    context = train.make_context("train", given, obj=Call((), click.echo, run))
    assert format_resume_command(context, Path("a b")) == (
        "hermes train --resume --output 'a b' --push-every-save --num-processes 2 --backend mlx "
        "--device cpu --no-compile"
    )
    context = train.make_context("train", [], obj=Call((), click.echo, run))
    for name, value in {"MLX_RANK": "0", "MLX_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    plain = "hermes train --resume --output run"
    assert (
        format_resume_command(context, Path("run")) == f"{plain}, started by mlx.launch as before"
    )
    monkeypatch.setenv("HERMES_LAUNCHED", "1")
    assert format_resume_command(context, Path("run")) == plain
