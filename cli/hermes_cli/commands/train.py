"""`hermes train`: train a model from scratch, or resume a run."""

from typing import Any

import click

from hermes_cli.launch.signals import Signals
from hermes_cli.options.declarations import declare_command


@declare_command("train")
@click.pass_context
def train(context: click.Context, /, **_: Any) -> None:
    """Train a model from scratch, or resume a run.

    Checkpoints, metrics.jsonl and run.yaml are written to --output.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """
    from hermes_cli.training.run_training import run_training

    if context.params["checkpoint"]:
        from hermes_cli.commands.finetune import run_finetuning

        run_finetuning(context)
        return
    with Signals("stopping after this update; again to end at once") as signals:
        run_training(context, signals)
