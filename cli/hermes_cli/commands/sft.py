"""`hermes sft`: fine-tune a model on conversations."""

from hermes_cli.options.declarations import declare_command
from hermes_cli.training.run_training import train_run

sft = declare_command(
    "sft",
    text="""Fine-tune a model on conversations (supervised fine-tuning).

    A record has `messages`, or `prompt` and `completion`, or `instruction`, `input` and `output`,
    or is plain text. Only what the assistant says is trained on, including the end of each turn;
    every such token has the same weight.

    Ctrl-C finishes the current step, saves a checkpoint and exits; the same command with --resume
    continues, on either backend.
    """,
)(train_run)
