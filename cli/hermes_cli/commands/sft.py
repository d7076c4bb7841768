"""`hermes sft`: fine-tune a model on conversations."""

from typing import Any

import click

from hermes_cli.options.declarations import declare_command


@declare_command("sft")
@click.pass_context
def sft(context: click.Context, /, **_: Any) -> None:
    """Fine-tune a model on conversations (supervised fine-tuning).

    A record has `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`,
    or is plain text. Only what the assistant says is trained on, including the end of each turn;
    every such token has the same weight.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """
    from hermes_cli.training.run_training import train_run

    train_run(context, "sft")
