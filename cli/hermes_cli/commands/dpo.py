"""`hermes dpo`: align a model with preference pairs."""

from typing import Any

import click

from hermes_cli.options.declarations import declare_command


@declare_command("dpo")
@click.pass_context
def dpo(context: click.Context, /, **_: Any) -> None:
    """Align a model with preference pairs (DPO and its relatives).

    A record has `prompt`, `chosen` and `rejected`, or `chosen` and `rejected` alone: whole
    conversations that begin with the same messages. The reference model is the model before
    training; its log-probabilities are computed once and cached.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """
    from hermes_cli.training.run_training import train_run

    train_run(context, "dpo")
