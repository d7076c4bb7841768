"""`hermes train`: train a model from scratch, or resume a run."""

from typing import Any

import click

from hermes_cli.options.declarations import declare_command


@declare_command("train")
@click.pass_context
def train(context: click.Context, /, **_: Any) -> None:
    """Train a model from scratch, or resume a run.

    Checkpoints, metrics.jsonl and run.yaml are written to --output.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """
    from hermes_cli.training.run_training import train_run

    # A checkpoint to start from makes it what `hermes finetune` does.
    train_run(context, "finetune" if context.params["checkpoint"] else "train")
