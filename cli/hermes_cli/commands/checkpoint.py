"""`hermes checkpoint`: list, show or verify checkpoints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.formatting import format_count, format_with_unit
from hermes.storage.path_kinds import CHECKPOINT, RUN, describe_kind
from hermes_cli.display.help_sections import SectionedGroup
from hermes_cli.options.declarations import declare_command
from hermes_cli.options.model_paths import fetch_model

if TYPE_CHECKING:
    from hermes.checkpoint import Checkpoint


def _describe(checkpoint: "Checkpoint") -> dict[str, Any]:
    """What a checkpoint has, as plain data; of bare weights only what they have."""
    from dataclasses import asdict

    from hermes.numerics.params import count_parameters

    facts: dict[str, Any] = {
        "path": str(checkpoint.path),
        "model": checkpoint.spec.name,
        "parameters": count_parameters(checkpoint.spec),
        "resumable": checkpoint.resumable,
    }
    if checkpoint.manifest:
        files = {name: file.size for name, file in sorted(checkpoint.manifest.files.items())}
        facts |= {"step": checkpoint.manifest.step, "run": checkpoint.manifest.run}
        facts |= {"format": checkpoint.manifest.version, "bytes": sum(files.values())}
        facts["files"] = files
    if checkpoint.resumable:
        facts["progress"] = asdict(checkpoint.progress)
    return facts


def _describe_no_folder(path: Path) -> str:
    """The sentence about what is not the folder of a checkpoint or run."""
    if kind := describe_kind(path):
        return f"{path} is {kind}; give the folder of a checkpoint or run"
    return f"{path}: no such file or folder; check the name"


@click.group(cls=SectionedGroup, no_args_is_help=True)
def checkpoint() -> None:
    """List, show or verify checkpoints."""


@declare_command("checkpoint list", checkpoint)
def list_(run: Path, as_json: bool) -> None:
    """List the checkpoints of a run, oldest first.

    Checks the names and sizes of their files, but not the hashes. Exits with 1 if a checkpoint is
    damaged or cannot be read.
    """
    from hermes.checkpoint import SkippedCheckpoint, open_checkpoints
    from hermes.errors import CheckpointError

    run = fetch_model(run)
    if not run.is_dir():
        raise CheckpointError(_describe_no_folder(run))
    rows: list[dict[str, Any]] = [
        {"path": str(found.path), "problem": found.reason, "damaged": found.damaged}
        if isinstance(found, SkippedCheckpoint)
        else _describe(found)
        for found in open_checkpoints(run, hashes=False)
    ][::-1]
    bad = sum("problem" in row for row in rows)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        _require_all(run, bad, rows)
        return
    if not rows:
        kind = describe_kind(run)
        what = f"is {kind}; give a run" if kind else "has no checkpoint"
        raise CheckpointError(f"{run} {what}")
    click.echo(f"{'step':>10}  {'tokens':>14}  {'size':>9}  {'written by':<12}  metrics")
    for row in rows:
        if "problem" in row:
            step = int(Path(row["path"]).name.removeprefix("step-"))
            click.echo(f"{step:>10}  {_name_problem(row['damaged'])}: {row['problem']}")
            continue
        progress = row.get("progress", {})
        metrics = " ".join(f"{k}={v:.4g}" for k, v in sorted(progress.get("metrics", {}).items()))
        backend = f"{progress.get('backend', '')} {progress.get('device', '')}".strip() or "-"
        tokens = progress.get("tokens", "-")
        size = format_with_unit(row["bytes"], "B")
        line = f"{row['step']:>10}  {tokens:>14}  {size:>9}  {backend:<12}  "
        click.echo((line + metrics).rstrip())
    _require_all(run, bad, rows)


def _name_problem(damaged: bool) -> str:
    return "damaged" if damaged else "not read"


def _require_all(run: Path, bad: int, found: Sequence[object]) -> None:
    from hermes.errors import CheckpointError

    if bad:
        raise CheckpointError(
            f"{bad} of {format_count(len(found), 'checkpoints')} of {run} "
            f"{'is' if bad == 1 else 'are'} damaged or cannot be read"
        )


@declare_command("checkpoint show", checkpoint)
def show(path: Path, as_json: bool) -> None:
    """Show what is in a checkpoint, or in the newest complete one of a run.

    The checkpoint is verified first.
    """
    from hermes.checkpoint import locate

    found, skipped = locate(fetch_model(path))
    for skip in skipped:
        click.echo(f"passed over {skip.path.name}: {skip.reason}", err=True)
    facts = _describe(found)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{found.path}: step {facts['step']} of run {facts['run']}, whole")
    click.echo(f"model      {facts['model']}, {facts['parameters']:,} parameters")
    click.echo(f"format     {facts['format']}, {format_with_unit(facts['bytes'], 'B')}")
    if "progress" in facts:
        _show_progress(facts["progress"])
    else:
        click.echo("progress   none: training cannot be resumed from it")
    for name, size in facts["files"].items():
        click.echo(f"  {name:<36} {format_with_unit(size, 'B'):>9}")


def _show_progress(progress: dict[str, Any]) -> None:
    tokens, end = f"{progress['tokens']:,}", progress["total_steps"]
    click.echo(f"progress   step {progress['step']} of {end or '?'}, {tokens} tokens")
    click.echo(f"data       epoch {progress['epoch']}, next sample {progress['sample']}")
    if progress["metrics"]:
        pairs = (f"{name} {value:.6g}" for name, value in sorted(progress["metrics"].items()))
        click.echo(f"metrics    {', '.join(pairs)}")
    versions = (f"{name} {number}" for name, number in sorted(progress["versions"].items()))
    where = " ".join(filter(None, (progress["backend"], progress["device"])))
    words = [where, progress["precision"], *versions]
    click.echo(f"written by {', '.join(filter(None, words))}")
    recipe = dict(progress["recipe"])
    flat = [(k, v) for k, v in recipe.items() if not isinstance(v, dict)]
    flat += [
        (f"{k}.{a}", b) for k, v in recipe.items() if isinstance(v, dict) for a, b in v.items()
    ]
    for name, value in flat:
        if _is_in_use(name, recipe, progress["precision"]):
            click.echo(f"  {name} {value}")


# Fields that mean nothing where they are zero or empty.
OFF_AT_ZERO = (
    *("max_steps", "train_tokens", "warmup_ratio", "z_loss", "ema", "freeze_layers"),
    *("batch_size_schedule", "seq_len_schedule"),
)


def _is_in_use(name: str, recipe: dict[str, Any], precision: str) -> bool:
    """Whether a field of a recipe means anything beside the others."""
    from hermes.optimizer_recipe import has_meaning

    if name.startswith("preference."):
        return bool(recipe["objective"] == "preference")
    if name.startswith("optimizer."):
        return has_meaning(name.removeprefix("optimizer."), recipe["optimizer"]["name"])
    if name.startswith("loss_scaling."):
        return precision == "float16"
    if name in OFF_AT_ZERO or isinstance(recipe.get(name), list | tuple):
        return bool(recipe[name])
    if name == "epochs":
        return not (recipe["max_steps"] or recipe["train_tokens"])
    schedules = {
        "min_lr_ratio": ("linear", "cosine", "polynomial", "wsd"),
        "power": ("polynomial",),
        "lr_points": ("points",),
        **dict.fromkeys(("decay_ratio", "decay_steps", "decay_shape"), ("wsd",)),
    }
    return (
        recipe[name] is not None
        if name == "lora"
        else (name not in schedules or recipe["schedule"] in schedules[name])
    )


@declare_command("checkpoint verify", checkpoint)
def verify(path: Path) -> None:
    """Verify every byte of a checkpoint, or of all checkpoints of a run.

    Exits with 1 if a checkpoint is damaged or cannot be read.
    """
    from hermes.checkpoint import SkippedCheckpoint, list_steps, open_checkpoint, open_checkpoints
    from hermes.errors import CheckpointError

    path = fetch_model(path)
    if not path.is_dir() or describe_kind(path) not in ("", CHECKPOINT, RUN):
        raise CheckpointError(_describe_no_folder(path))
    bad = 0
    found = list(open_checkpoints(path))[::-1] if list_steps(path) else [open_checkpoint(path)]
    for one in found:
        if isinstance(one, SkippedCheckpoint):
            bad += 1
            click.echo(f"{one.path}: {_name_problem(one.damaged)}: {one.reason}")
        else:
            size = one.manifest.size if one.manifest else 0
            click.echo(f"{one.path}: whole, {format_with_unit(size, 'B')}")
    _require_all(path, bad, found)
