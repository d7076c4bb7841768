"""`hermes dpo`: align a model with preference pairs."""

from hermes_cli.options.declarations import declare_command
from hermes_cli.training.run_training import train_run

dpo = declare_command(
    "dpo",
    text="""Align a model with preference pairs (DPO and its relatives).

    A record has `prompt`, `chosen` and `rejected`, or `chosen` and `rejected` alone: whole
    conversations that begin with the same messages. The reference model is the model before
    training; its log-probabilities are computed once and cached.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """,
)(train_run)
